r"""Qwen3-4B as the rewriter, with everything else of `llama3_8b.py`: the method's adapters and
constants, and the same TPU slices.

    pav check --config=qwen3_4b:dpo,v5e-16
    TPU_TYPE=v5litepod-16 launch/watch.sh pav dpo --config=qwen3_4b:dpo,v5e-16 \
        --workdir=$BUCKET/runs/qwen3

Figures of `pav check` as in that file: rows of 1024 tokens, chip-hours of SFT or of both DPO
rounds. None of these has run on a TPU yet.

    stage  slice    chips, hosts    HBM/chip          steps             s/step        chip-hours
    sft    v5e-16   16, 4           1.3 of 16 GiB     7500 of 8 rows    0.18 to 0.27  6.1 to 9
    sft    v5p-8    4, 1            4.9 of 95 GiB     7500 of 8 rows    0.11 to 0.25  0.93 to 2.1
    sft    v6e-8    8, 1            2.2 of 32 GiB     7500 of 8 rows    0.097 to 0.15 1.6 to 2.5
    dpo    v5e-16   16, 4           3.7 of 16 GiB     469 of 32 pairs   0.7 to 1.8    2.9 to 7.5
    dpo    v5p-8    4, 1            11 of 95 GiB      469 of 32 pairs   1.2 to 1.9    1.3 to 2
    dpo    v6e-8    8, 1            7.8 of 32 GiB     469 of 32 pairs   0.68 to 1.1   1.4 to 2.4
"""

from pathlib import Path

from ml_collections import ConfigDict

from pav_jax.config import load


def get_config(argument: str = "dpo") -> ConfigDict:
    """`argument`: as in `llama3_8b.py`, a stage and perhaps a slice: "dpo,v5e-16"."""
    config = load(f"{Path(__file__).with_name('llama3_8b.py')}:{argument}")
    config.rewriter.path = "Qwen/Qwen3-4B"
    return config
