"""The whole recipe on the embedded models.

    pav run --config=configs/mini.py --workdir=runs/mini

Hardware: 2 processor cores and 8 GB of memory, no accelerator, no network.
"""

from ml_collections import ConfigDict

from pav_jax import defaults


def get_config() -> ConfigDict:
    config = defaults.get_config()
    config.evolve.rounds = 3
    return config
