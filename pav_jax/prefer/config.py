"""Defaults of the configuration's `prefer` section."""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def prefer_config() -> ConfigDict:
    """Defaults: the published run (dpo/inference.py and dpo/filter.py)."""
    return ConfigDict(
        dict(
            prompts="mini:prompts/prefer.txt",
            max_prompts=placeholder(int),  # of a round; None: an even share of the file
            num_return_sequences=5,
            temperature=1.0,
            top_k=50,
            top_p=1.0,
            max_new_tokens=250,
            sampling_batch_size=32,  # prompts per call of the rewriter
            keep_videos="none",  # none or all
            weights=None,  # of overall; None: rewards.weights
            ranking="sum",  # which rewrite is better: sum, pareto or average_rank
            thresholds=None,  # None: rewards.thresholds; {} for none
            constraints=None,  # None: rewards.constraints; {} for none
            # True: feasible rewrites rank first, unless an infeasible one is clearly better
            feasible_first=False,
            # least distance of a pair: of overall for sum and pareto, of mean ranks for
            # average_rank
            margin=1.4,
            max_words=130,  # of a chosen rewrite
            # largest relative difference of a pair's word counts; None for any
            max_length_difference=placeholder(float),
        )
    )
