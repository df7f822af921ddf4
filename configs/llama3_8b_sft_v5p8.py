"""TODO"""

from pathlib import Path

from ml_collections import ConfigDict

from pav_jax.config import load


def get_config() -> ConfigDict:
    config = load(f"{Path(__file__).with_name('llama3_8b.py')}:sft")
    config.check.topology = "v5p:2x2x1"  # v5p counts cores, two per chip
    config.mesh.fsdp = 4
    config.sft.batch_size = 8
    return config
