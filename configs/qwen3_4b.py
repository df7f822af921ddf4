"""Qwen3-4B as the rewriter, with everything else of `llama3_8b.py`: the method's adapters and
constants, and the same TPU slices.

    pav check --config=configs/qwen3_4b.py:dpo,v5e-16
    TPU_TYPE=v5litepod-16 launch/run.sh pav dpo --config=configs/qwen3_4b.py:dpo,v5e-16 \
        --workdir=$BUCKET/runs/qwen3
"""

from pathlib import Path

from ml_collections import ConfigDict

from pav_jax.config import load


def get_config(argument: str = "dpo") -> ConfigDict:
    """`argument`: as of `llama3_8b.py`, a stage and perhaps a slice: "dpo,v5e-16"."""
    config = load(f"{Path(__file__).with_name('llama3_8b.py')}:{argument}")
    config.rewriter.path = "Qwen/Qwen3-4B"
    return config
