r"""Gemma-3-4B-it, its text part, as the rewriter, with everything else of `llama3_8b.py`: the
method's adapters and constants, and the same TPU slices.

    pav check --config=gemma3_4b:dpo,v5e-16
    TPU_TYPE=v5litepod-16 launch/watch.sh pav dpo --config=gemma3_4b:dpo,v5e-16 \
        --workdir=$BUCKET/runs/gemma3

Figures of `pav check` as in that file: rows of 1024 tokens, chip-hours of SFT or of both DPO
rounds. None of these has run on a TPU yet.

    stage  slice    chips, hosts    HBM/chip          steps             s/step        chip-hours
    sft    v5e-16   16, 4           1.6 of 16 GiB     7500 of 8 rows    0.18 to 0.27  6 to 8.9
    sft    v5p-8    4, 1            6.3 of 95 GiB     7500 of 8 rows    0.1 to 0.24   0.87 to 2
    sft    v6e-8    8, 1            2.8 of 32 GiB     7500 of 8 rows    0.1 to 0.16   1.7 to 2.7
    dpo    v5e-16   16, 4           4.7 of 16 GiB     469 of 32 pairs   0.66 to 1.7   2.8 to 7
    dpo    v5p-8    4, 1            13 of 95 GiB      469 of 32 pairs   1.1 to 1.8    1.2 to 1.8
    dpo    v6e-8    8, 1            10 of 32 GiB      469 of 32 pairs   0.56 to 1     1.2 to 2.1
"""

from pathlib import Path

from ml_collections import ConfigDict

from pav_jax.config import load


def get_config(argument: str = "dpo") -> ConfigDict:
    """`argument`: as in `llama3_8b.py`, a stage and perhaps a slice: "dpo,v5e-16"."""
    config = load(f"{Path(__file__).with_name('llama3_8b.py')}:{argument}")
    config.rewriter.path = "google/gemma-3-4b-it"
    return config
