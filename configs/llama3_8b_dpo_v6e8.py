"""Preference optimisation of Llama-3-8B-Instruct on a v6e-8: 8 chips, 2 x 4, 1 host.

    pav check --config=configs/llama3_8b_dpo_v6e8.py
    TPU_TYPE=v6e-8 launch/run.sh pav dpo --config=configs/llama3_8b_dpo_v6e8.py
    --workdir=$BUCKET/runs/llama3

Memory, by the TPU's compiler: 8.9 of 32 GiB per chip.
Time, estimated by `pav check`: 5000 preferences for 3 epochs are 469 steps of 32 pairs of 1024
tokens, 0.8 to 1.7 s each: 7 to 13 minutes a round, 1.8 to 3.4 chip-hours for both. Their
candidates, 50,000 answers of up to 250 tokens, are another 2.5 to 3.4 chip-hours.
Not run on a TPU yet.
"""

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
