"""The smoke configuration with one round and few prompts."""

from ml_collections import ConfigDict

from pav_jax.config import load


def get_config() -> ConfigDict:
    config = load("smoke")
    config.rounds = 1
    config.evolve.rounds = 1
    config.evolve.max_prompts = 4
    config.prefer.max_prompts = 4
    config.evaluate.max_prompts = 2
    config.evaluate.systems = ("original", "base", "sft", "dpo_1")
    config.evaluate.controls = False
    return config
