"""Supervised tuning of Llama-3-8B-Instruct on a v5p-8: 4 chips, 1 host.

    pav check --config=configs/llama3_8b_sft_v5p8.py
    TPU_TYPE=v5p-8 launch/run.sh pav sft --config=configs/llama3_8b_sft_v5p8.py
    --workdir=$BUCKET/runs/llama3

Memory, by the TPU's compiler: 6.1 of 95 GiB per chip.
Time, estimated by `pav check`: 5000 pairs for 12 epochs are 7500 steps of 8 rows of 1024 tokens,
0.19 to 0.39 s each: 24 to 49 minutes, 1.6 to 3.3 chip-hours.
Not run on a TPU yet.
"""

from pathlib import Path

from ml_collections import ConfigDict

from pav_jax.config import load


def get_config() -> ConfigDict:
    config = load(f"{Path(__file__).with_name('llama3_8b.py')}:sft")
    config.check.topology = "v5p:2x2x1"  # v5p counts cores, two per chip
    config.mesh.fsdp = 4
    config.sft.batch_size = 8
    return config
