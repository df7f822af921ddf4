"""Preference optimisation of Llama-3-8B-Instruct on four slices of v5e-64: 256 chips, 8 x 8 each,
64 hosts.

    pav check --config=configs/llama3_8b_dpo_v5e256.py
    TPU_TYPE=v5litepod-64 SLICES=4 launch/run.sh pav dpo --config=configs/llama3_8b_dpo_v5e256.py
    --workdir=$BUCKET/dpo

Memory, by the TPU's compiler: 3.0 of 16 GiB per chip.
Time, estimated by `pav check`: 100,000 preferences for 3 epochs are 1172 steps of 256 pairs of 1024
tokens, 0.61 to 1.7 s each: 12 to 33 minutes a round, 100 to 280 chip-hours for both. Only the
adapters' gradients cross slices, 2 MB per chip and step.
Not run on a TPU yet.
"""

from pathlib import Path

from ml_collections import ConfigDict

from pav_jax.config import load


def get_config() -> ConfigDict:
    config = load(f"{Path(__file__).with_name('llama3_8b.py')}:dpo")
    config.check.topology, config.check.slices = "v5e:8x8", 4
    config.check.examples = 100_000
    config.check.programs = (
        "dpo",
    )  # sampling on this mesh would send every token's logits between slices
    config.mesh.data = (
        4  # one part per slice: only gradients of adapters cross the data centre's network
    )
    config.mesh.fsdp = 64
    config.dpo.batch_size = 256  # eight times the method's, a pair per chip
    config.dpo.grad_accumulation = 1
    config.dpo.learning_rate = 1.4e-4  # the method's times the square root of eight; not tried
    return config
