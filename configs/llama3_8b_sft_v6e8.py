"""Supervised tuning of Llama-3-8B-Instruct on a v6e-8: 8 chips, 2 x 4, 1 host.

    pav check --config=configs/llama3_8b_sft_v6e8.py
    TPU_TYPE=v6e-8 launch/run.sh pav sft --config=configs/llama3_8b_sft_v6e8.py
    --workdir=$BUCKET/runs/llama3

Memory, by the TPU's compiler: 3.6 of 32 GiB per chip.
Time, estimated by `pav check`: 5000 pairs for 12 epochs are 7500 steps of 8 rows of 1024 tokens,
0.16 to 0.26 s each: 20 to 33 minutes, 2.7 to 4.4 chip-hours. Small batches make this a matter of
moving weights: the step is bound by the chips' links.
Not run on a TPU yet.
"""

from pathlib import Path

from ml_collections import ConfigDict

from pav_jax.config import load


def get_config() -> ConfigDict:
    config = load(f"{Path(__file__).with_name('llama3_8b.py')}:sft")
    config.check.topology = "v6e:2x4"
    config.mesh.fsdp = 8
    config.sft.batch_size = 8
    return config
