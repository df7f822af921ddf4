"""The smoke configuration with one round, few prompts and one reward that needs a model."""

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
    config.generator.num_inference_steps = 1
    with config.unlocked():
        config.rewards.entries = {"aesthetic": config.rewards.entries.aesthetic, "faithfulness": {}}
        config.rewards.weights = config.prefer.weights = config.calibrate.weights = {"AES": 1.0}
        config.rewards.thresholds = {}
    config.rewards.held_out = ()
    return config
