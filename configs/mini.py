"""The whole recipe on the embedded models: 96 prompts to evolve, 128 new ones for each of two rounds of preferences.

    pav run --config=configs/mini.py --workdir=runs/mini

Hardware: 2 processor cores and 8 GB of memory, no accelerator, no network.
"""

from ml_collections import ConfigDict

from pav_jax import defaults


def get_config() -> ConfigDict:
    config = defaults.get_config()
    config.evolve.rounds = 3
    config.evolve.keep_videos = "none"

    for stage in (config.rewriter, config.prefer, config.proposers.local):
        stage.max_new_tokens = 72  # the longest captions of the embedded world have 60 tokens
    config.prefer.samples = 4

    config.evaluate.seeds = (0, 1)
    config.report.title = "Prompt booster on the embedded models"
    return config
