"""Defaults of the configuration's `proposers`, `evolve` and `select` sections."""

from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from pav_jax.evolve.options import ChatOptions, LexiconOptions, LocalOptions


def _entry(
    kind: str, share: float, first_round: int, options: ChatOptions | LexiconOptions | LocalOptions
) -> dict[str, Any]:
    values = {name: value for name, value in vars(options).items() if value is not None}
    place = {"share": share, "first_round": first_round, "last_round": placeholder(int)}
    files = {name: placeholder(str) for name, value in vars(options).items() if value is None}
    return {"kind": kind, **place, **values, **files}


def proposers_config() -> ConfigDict:
    """Name -> entry. A share of 0 switches an entry off; others can be added with a `kind`."""
    return ConfigDict(
        {
            "local": _entry("local", 1.0, 1, LocalOptions()),
            "lexicon": _entry("lexicon", 0.0, 2, LexiconOptions()),  # learns from the pool
            "chat": _entry("chat", 0.0, 1, ChatOptions()),
        }
    )


def evolve_config() -> ConfigDict:
    """Defaults: the published run (gpt_boost.py)."""
    return ConfigDict(
        dict(
            prompts="mini:prompts/evolve.txt",
            max_prompts=placeholder(int),  # the first so many; None for all
            rounds=8,
            num_rewrites=3,  # new rewrites per prompt and round
            history_size=3,  # best rewrites so far that proposers see
            weights=None,  # of overall; None: rewards.weights
            ranking="sum",  # of the rewrites that proposers see: sum, pareto or average_rank
            # feasible rewrites come first; None: none for ranking=sum, else rewards.constraints
            constraints=None,
            keep_videos="none",  # none, all, or best: those that beat every earlier round
            # prompts per call of the proposers; None: twice the generator's batch
            proposal_batch_size=placeholder(int),
            max_proposal_attempts=2,  # calls for the missing rewrites of a prompt
            max_words=200,  # longer rewrites are discarded
            preview=dict(  # cheap videos decide which rewrites get a full video
                keep=1.0,  # share of a prompt's rewrites of a round that do; 1: no previews
                audit=0.1,  # share of prompts of which all do, to measure previews
                num_inference_steps=placeholder(int),  # of previews; None: as in full videos
                num_frames=placeholder(int),
                height=placeholder(int),
                width=placeholder(int),
            ),
        )
    )


def select_config() -> ConfigDict:
    """Defaults: the published run."""
    return ConfigDict(
        dict(
            weights=None,  # of overall; None: evolve.weights, then rewards.weights
            ranking="sum",  # which rewrite is the best: sum, pareto or average_rank
            thresholds=None,  # None: rewards.thresholds; {} for none
            constraints=None,  # None: rewards.constraints; {} for none
            min_gain=0.0,  # of overall over the user's own prompt
            max_words=130,
        )
    )
