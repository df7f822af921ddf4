r"""Qwen3-8B as the rewriter, with everything else of `llama3_8b.py`: the method's adapters and
constants, and the same TPU slices.

    pav check --config=qwen3_8b:dpo,v5e-16
    TPU_TYPE=v5litepod-16 launch/watch.sh pav dpo --config=qwen3_8b:dpo,v5e-16 \
        --workdir=$BUCKET/runs/qwen3

Figures of `pav check` as in that file: rows of 1024 tokens, chip-hours of SFT or of both DPO
rounds. None of these has run on a TPU yet.

    stage  slice    chips, hosts    HBM/chip          steps             s/step        chip-hours
    sft    v5e-16   16, 4           2.2 of 16 GiB     7500 of 8 rows    0.32 to 0.51  11 to 17
    sft    v5p-8    4, 1            6.5 of 95 GiB     7500 of 8 rows    0.2 to 0.41   1.6 to 3.4
    sft    v6e-8    8, 1            3.9 of 32 GiB     7500 of 8 rows    0.17 to 0.27  2.8 to 4.5
    dpo    v5e-16   16, 4           5.5 of 16 GiB     469 of 32 pairs   1.2 to 3.1    5.2 to 13
    dpo    v5p-8    4, 1            17 of 95 GiB      469 of 32 pairs   2.1 to 3.1    2.2 to 3.2
    dpo    v6e-8    8, 1            10 of 32 GiB      469 of 32 pairs   0.92 to 1.7   1.9 to 3.6
"""

from pathlib import Path

from ml_collections import ConfigDict

from pav_jax.config import load


def get_config(argument: str = "dpo") -> ConfigDict:
    """`argument`: as in `llama3_8b.py`, a stage and perhaps a slice: "dpo,v5e-16"."""
    config = load(f"{Path(__file__).with_name('llama3_8b.py')}:{argument}")
    config.rewriter.path = "Qwen/Qwen3-8B"
    return config
