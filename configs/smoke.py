"""The whole recipe on eight prompts, to see that everything runs; its figures mean nothing.

    pav run --config=configs/smoke.py --workdir=runs/smoke

Hardware: 2 processor cores and 4 GB of memory. Time: under a minute.
"""

from pathlib import Path

from ml_collections import ConfigDict

from pav_jax.config import load


def get_config() -> ConfigDict:
    config = load(Path(__file__).with_name("mini.py"))
    config.evolve.count = 8
    return config
