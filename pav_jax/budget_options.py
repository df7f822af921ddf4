"""The section `budget` of a configuration."""

import dataclasses
from collections.abc import Mapping

from pav_jax.config_fields import option


@dataclasses.dataclass
class BudgetConfig:
    """Limits of a work directory over all runs; a run stops before the batch that exceeds one.

    The limits may be changed between runs. Stages: evolve, sft, prefer, dpo, grpo, evaluate, trust.
    """

    videos: int | None = option(None, "videos of all stages, without previews", minimum=0)
    hours: float | None = option(None, "hours of all stages", minimum=0)
    usd: float | None = option(None, "money, by usd_per_hour", minimum=0)
    usd_per_hour: float | None = option(None, "price of all hosts together", minimum=0)
    stage_videos: Mapping[str, int] = option(dict, "stage -> videos")
    stage_hours: Mapping[str, float] = option(dict, "stage -> hours")
    check_generator: bool = option(True, "stop if the generator ignores its prompts")
    check_rewards: bool = option(True, "stop if a weighted score is the same for the first videos")
