"""What the Llama-3-8B experiments share: the method's model, adapters and constants (arXiv
2412.15156).

    pav check --config=configs/llama3_8b.py:dpo --topology=v5e:4x4

The files llama3_8b_<stage>_<TPU>.py start from this one and put it on hardware. The frozen base is
bfloat16; adapters and the optimizer's state are float32. Times given there are for rows of 1024
tokens, the longest there may be; those of the 512 bucket take half.
"""

from pathlib import Path

from ml_collections import ConfigDict

from pav_jax import defaults

# without it the untuned model chats with the prompt instead of rewriting it
TEMPLATE = Path(defaults.__file__).parent / "language" / "templates" / "rewriter_llama3.jinja"


def get_config(stage: str = "dpo") -> ConfigDict:
    """`stage`: "sft" or "dpo", the one that `pav check` looks at."""
    config = defaults.get_config()
    config.rewriter.path = "meta-llama/Meta-Llama-3-8B-Instruct"
    config.rewriter.dtype = "bfloat16"
    config.rewriter.template = str(TEMPLATE)
    for fields in (config.sft, config.dpo):
        fields.length_buckets = (
            512,
            1024,
        )  # a short prompt and its rewrite fit the first: that is nearly all rows
        fields.save_every = 50
    config.mesh.fsdp = -1
    with config.unlocked():
        # what `pav check` looks at; before a round of dpo, prefer samples
        config.check = dict(
            topology="",
            slices=1,
            programs=(stage,) if stage == "sft" else (stage, "sample"),
            examples=5000,
        )
    return config
