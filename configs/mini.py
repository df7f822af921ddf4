"""The whole recipe on the embedded models in a few minutes: `mini_full.py` with fewer prompts to
learn from and to evaluate.

    pav run --config=mini --workdir=runs/mini

Its intervals are about twice as wide as those of `mini_full.py`; the tables in docs/results.md are
of that one.

Hardware: 2 CPU cores and 4 GB of memory, no accelerator, no network.
"""

from pathlib import Path

from ml_collections import ConfigDict

from pav_jax.config import load


def get_config() -> ConfigDict:
    """The configuration: `mini_full.py` with fewer prompts."""
    config = load(Path(__file__).with_name("mini_full.py"))
    config.evolve.max_prompts = 56
    config.prefer.max_prompts = 56
    config.evaluate.max_prompts = 40
    config.evaluate.num_suffix_prompts = 6
    return config
