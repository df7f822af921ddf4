"""Preference optimisation of Llama-3-8B-Instruct on a v5e-16: 16 chips, 4 x 4, 4 hosts.

    pav check --config=configs/llama3_8b_dpo_v5e16.py
    TPU_TYPE=v5litepod-16 launch/run.sh pav dpo --config=configs/llama3_8b_dpo_v5e16.py
    --workdir=$BUCKET/runs/llama3

Memory, by the TPU's compiler: 5.2 of 16 GiB per chip.
Time, estimated by `pav check`: 5000 preferences for 3 epochs are 469 steps of 32 pairs of 1024
tokens, 1.2 to 2.9 s each: 9 to 23 minutes a round, 4.9 to 12 chip-hours for both. Their candidates,
50,000 answers of up to 250 tokens, are another 5.8 to 9.5 chip-hours.
Not run on a TPU yet.
"""

from pathlib import Path

from ml_collections import ConfigDict

from pav_jax.config import load


def get_config() -> ConfigDict:
    config = load(f"{Path(__file__).with_name('llama3_8b.py')}:dpo")
    config.check.topology = "v5e:4x4"
    config.mesh.fsdp = 16
    config.dpo.batch_size = 32
    config.dpo.grad_accumulation = 1
    return config
