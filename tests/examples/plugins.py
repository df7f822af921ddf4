"""A configuration whose generator, reward and proposer are those of the examples."""

from ml_collections import ConfigDict

from pav_jax import defaults


def get_config() -> ConfigDict:
    config = defaults.get_config()
    config.generator.path = "examples.own_generator:Bouncing"
    config.rewards.entries = {
        "warmth": {"kind": "examples.own_reward:warmth"},
        "faithfulness": {},
    }
    config.rewards.weights = {"warmth": 1.0}
    with config.unlocked():
        config.proposers = {"mine": {"kind": "examples.own_proposer:Adjectives", "share": 1.0}}
    return config
