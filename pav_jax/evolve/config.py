"""The fields of evolution and of its previews, with their defaults."""

import dataclasses
from collections.abc import Mapping

from pav_jax.candidates.options import KEEP_VIDEOS, RANKINGS
from pav_jax.config_fields import option


@dataclasses.dataclass
class PreviewConfig:
    """Cheap preview videos that decide which rewrites get a full video (candidates/preview.py)."""

    keep: float = option(
        1.0,
        "share of a prompt's rewrites that get a full video; 1: no previews",
        above=0,
        maximum=1,
    )
    audit: float = option(
        0.1,
        "share of prompts whose rewrites all get one, to measure how well previews rank",
        minimum=0,
        maximum=1,
    )
    num_inference_steps: int | None = option(None, "of previews; None: as full videos", minimum=1)
    num_frames: int | None = option(None, "of previews; None: as full videos", minimum=1)
    height: int | None = option(None, "of previews; None: as full videos", minimum=1)
    width: int | None = option(None, "of previews; None: as full videos", minimum=1)


@dataclasses.dataclass
class EvolveConfig:
    """Reward-guided evolution of the training prompts. Source: gpt_boost.py."""

    prompts: str = option("mini:prompts/evolve.txt", "file with one prompt per line")
    max_prompts: int | None = option(
        None, "use only this many of the first prompts; None: all", minimum=1
    )
    rounds: int = option(8, "rounds of proposals", minimum=0)
    num_rewrites: int = option(3, "new rewrites per prompt and round", minimum=1)
    history_size: int = option(3, "best rewrites that proposers see", minimum=0)
    weights: Mapping[str, float] | None = option(None, "of overall; None: rewards.weights")
    ranking: str = option("sum", "order of the rewrites that proposers see", choices=RANKINGS)
    constraints: Mapping[str, float] | None = option(
        None, "feasible rewrites come first; None: none for ranking=sum, else rewards.constraints"
    )
    keep_videos: str = option(
        "none", "best: those that beat all earlier rounds", choices=KEEP_VIDEOS
    )
    proposal_batch_size: int | None = option(
        None, "prompts per call of the proposers; None: twice generator.batch_size", minimum=1
    )
    max_proposal_attempts: int = option(2, "calls for missing rewrites of a prompt", minimum=1)
    max_words: int = option(200, "longer rewrites are discarded", minimum=1)
    preview: PreviewConfig = option(PreviewConfig, "cheap videos first")
