"""Group relative policy optimization on the embedded models, from the SFT booster of a run of
configs/mini.py.

    pav run --config=mini --workdir=runs/mini
    pav grpo --config=mini_grpo --workdir=runs/mini_grpo
    pav evaluate --workdir=runs/mini_grpo && pav report --workdir=runs/mini_grpo

`--config.grpo.start=FOLDER --config.evaluate.rewrite_files.sft=FOLDER` start from, and compare
with, another booster.

Hardware: 2 CPU cores and 8 GB of memory, no accelerator, no network.
"""

from pathlib import Path

from ml_collections import ConfigDict

from pav_jax.config import load

START = "runs/mini/sft/booster"


def get_config() -> ConfigDict:
    """The configuration: `mini.py` with GRPO, started from and compared with its SFT booster."""
    config = load(Path(__file__).with_name("mini.py"))
    config.grpo.start = START
    config.evaluate.systems = ("original", "grpo")
    with config.unlocked():
        config.evaluate.rewrite_files = {"sft": START}
    config.evaluate.controls = False
    return config
