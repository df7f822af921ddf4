"""Fields of the configuration's `trust` and `calibrate` sections; imports nothing heavy."""

from ml_collections import ConfigDict


def trust_config() -> ConfigDict:
    """By default 512 videos, 32 of which are corrupted in 11 ways."""
    return ConfigDict(
        dict(
            prompts="",  # a .txt or .jsonl file; empty: evolve.prompts
            max_prompts=128,  # the first prompts to use; 0: all
            seeds=(0, 1, 2, 3),  # of the generator, at least two
            num_corrupted=32,  # the first seed's videos of that many prompts are corrupted
            severities=(0, 1, 2, 3, 4),  # of the corruptions; 0 is the original video
            # score name -> families of corruptions (trust/corruptions.py) that it should respond
            # to, instead of those in trust/verdict.py; with "text" it should read the prompt
            expected_sensitivities=dict(),
            # score name -> (lowest, highest), instead of the published range; None: as observed
            score_ranges=dict(),
            num_resamples=10_000,  # of the bootstrap
        )
    )


def calibrate_config() -> ConfigDict:
    """By default a threshold lets about 40 % of a pool's scores pass."""
    return ConfigDict(
        dict(
            quantile=0.6,  # of the pool's scores: the threshold
            # whose proportions are kept; None: evolve.weights, then rewards.weights
            weights=None,
            # score name -> its standard deviation where the weights come from; 1 if missing
            published_deviations=dict(),
        )
    )
