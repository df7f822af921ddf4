"""Preference optimisation of Llama-3-8B-Instruct on a v5p-8: 4 chips, 1 host.

    pav check --config=configs/llama3_8b_dpo_v5p8.py
    TPU_TYPE=v5p-8 launch/run.sh pav dpo --config=configs/llama3_8b_dpo_v5p8.py
    --workdir=$BUCKET/runs/llama3

Memory, by the TPU's compiler: 16 of 95 GiB per chip.
Time, estimated by `pav check`: 5000 preferences for 3 epochs are 469 steps of 32 pairs of 1024
tokens, 2.1 to 2.9 s each: 17 to 23 minutes a round, 2.2 to 3.1 chip-hours for both.
Not run on a TPU yet.
"""

from pathlib import Path

from ml_collections import ConfigDict

from pav_jax.config import load


def get_config() -> ConfigDict:
    config = load(f"{Path(__file__).with_name('llama3_8b.py')}:dpo")
    config.check.topology = "v5p:2x2x1"  # v5p counts cores, two per chip
    config.mesh.fsdp = 4
    config.dpo.batch_size = 32
    config.dpo.grad_accumulation = 1
    return config
