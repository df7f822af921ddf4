"""TODO"""

from pathlib import Path

from ml_collections import ConfigDict

from pav_jax.config import load


def get_config() -> ConfigDict:
    config = load(f"{Path(__file__).with_name('llama3_8b.py')}:dpo")
    config.check.topology = "v6e:2x4"
    config.mesh.fsdp = 8
    config.dpo.batch_size = 32
    config.dpo.grad_accumulation = 1
    return config
