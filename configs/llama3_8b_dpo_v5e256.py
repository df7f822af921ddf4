"""TODO"""

from pathlib import Path

from ml_collections import ConfigDict

from pav_jax.config import load


def get_config() -> ConfigDict:
    config = load(f"{Path(__file__).with_name('llama3_8b.py')}:dpo")
    config.check.topology, config.check.slices = "v5e:8x8", 4
    config.check.examples = 100_000
    config.mesh.data = 4  # one part per slice: only gradients of adapters cross the data centre's network
    config.mesh.fsdp = 64
    config.dpo.batch_size = 256  # eight times the method's, a pair per chip
    config.dpo.grad_accumulation = 1
    config.dpo.learning_rate = 1.4e-4  # the method's times the square root of that; not tried
    return config
