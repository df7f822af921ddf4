"""TODO"""

from pathlib import Path

from ml_collections import ConfigDict

from pav_jax.config import load


def get_config() -> ConfigDict:
    config = load(f"{Path(__file__).with_name('llama3_8b.py')}:sft")
    config.check.topology = "v6e:2x4"
    config.mesh.fsdp = 8
    config.sft.batch_size = 8
    return config
