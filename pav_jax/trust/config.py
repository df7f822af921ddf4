"""The fields of the configuration's `trust` and `calibrate` sections; imports nothing heavy."""

from ml_collections import ConfigDict


def trust_config() -> ConfigDict:
    """By default 512 videos, 32 of which are damaged in 11 ways."""
    return ConfigDict(
        dict(
            prompts="",  # a .txt or .jsonl file; empty: evolve.prompts
            count=128,  # the first so many prompts; 0 takes all
            seeds=(0, 1, 2, 3),  # the generator's, at least two
            degraded=32,  # videos that are damaged: the first seed's of so many prompts
            severities=(0, 1, 2, 3, 4),  # of damage; 0 is the video as it is
            # score name -> families of damage it ought to notice (trust/degradations.py), in place
            # of trust/verdict.py's; with "text" among them the score is one that claims to read the
            # prompt
            claims=dict(),
            # score name -> (lowest, highest), in place of the published checkpoint's; None: those
            # seen
            ranges=dict(),
            resamples=10_000,
        )
    )


def calibrate_config() -> ConfigDict:
    return ConfigDict(
        dict(
            percentile=0.6,  # of the pool's scores: the threshold
            weights=None,  # whose proportions are kept; None: evolve.weights, then rewards.weights
            # score name -> its deviation where the weights come from; 1 where none is given
            spreads=dict(),
        )
    )
