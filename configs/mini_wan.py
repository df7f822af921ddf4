r"""The whole recipe on the embedded models, with the second generator: a Wan 2.1 that reads lists
of tags.

    pav run --config=mini_wan --workdir=runs/mini_wan

To evaluate the boosters of both generators on this one (or, with --config=mini_full, on
the other):

    pav evaluate --config=mini_wan --workdir=runs/on_wan --no-controls \
        --config.evaluate.systems="('original',)" \
        --config.evaluate.rewrite_files="{'cogvideox': 'runs/mini_full/round_2/booster', \
            'wan': 'runs/mini_wan/round_2/booster'}"

Hardware: 2 CPU cores and 8 GB of memory, no accelerator, no network.
"""

from pathlib import Path

from ml_collections import ConfigDict

from pav_jax.config import load


def get_config() -> ConfigDict:
    """The configuration: `mini_full.py` with the embedded Wan and its prompt sets."""
    config = load(Path(__file__).with_name("mini_full.py"))
    config.generator.path = "mini:generator_wan"
    # the same prompts, with captions in this generator's words
    config.evaluate.prompts = {
        name: f"mini:prompts/wan_{name}.jsonl" for name in ("in_domain", "held_out")
    }
    return config
