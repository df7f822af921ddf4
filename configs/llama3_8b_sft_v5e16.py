"""Supervised tuning of Llama-3-8B-Instruct on a v5e-16: 16 chips, 4 x 4, 4 hosts.

    pav check --config=configs/llama3_8b_sft_v5e16.py
    TPU_TYPE=v5litepod-16 launch/run.sh pav sft --config=configs/llama3_8b_sft_v5e16.py
    --workdir=$BUCKET/runs/llama3

Memory, by the TPU's compiler: 2.0 of 16 GiB per chip.
Time, estimated by `pav check`: 5000 pairs for 12 epochs are 7500 steps of 8 rows of 1024 tokens,
0.31 to 0.47 s each: 38 to 59 minutes, 10 to 16 chip-hours. Small batches make this a matter of
moving weights: the step is bound by the chips' links.
Not run on a TPU yet.
"""

from pathlib import Path

from ml_collections import ConfigDict

from pav_jax.config import load


def get_config() -> ConfigDict:
    config = load(f"{Path(__file__).with_name('llama3_8b.py')}:sft")
    config.check.topology = "v5e:4x4"
    config.mesh.fsdp = 8
    config.mesh.tensor = 2  # the method's batch has 8 rows: a row is shared by two chips
    config.sft.batch_size = 8
    return config
