"""The fields of the configuration's `prefer` section; imports nothing heavy."""

from ml_collections import ConfigDict


def prefer_config() -> ConfigDict:
    """Defaults: the published run (dpo/inference.py and dpo/filter.py)."""
    return ConfigDict(
        dict(
            prompts="mini:prompts/prefer.txt",
            count=0,  # the first so many prompts; 0 takes all
            samples=5,
            temperature=1.0,
            top_k=50,
            top_p=1.0,
            max_new_tokens=250,
            sample_batch=32,  # prompts given to the rewriter at once
            keep_videos="none",  # none or all
            weights=None,  # None: rewards.weights
            ranking="sum",  # who is better: sum, pareto, average_rank, as in evolve
            thresholds=None,  # None: rewards.thresholds; {} for none
            floors=None,  # None: rewards.constraints; {} for none
            # True: what keeps the floors is preferred to what does not, unless that is clearly
            # better
            floors_first=False,
            # a rejected rewrite lies more than this below the chosen one: in overall where ranking
            # is sum; in mean places where it is average_rank; in overall, and dominated by the
            # chosen one, where it is pareto (0: that is enough)
            margin=1.4,
            max_words=130,  # of a chosen rewrite
            length_match=0.0,  # largest relative difference of the word counts of a pair; 0: any
        )
    )
