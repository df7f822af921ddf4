"""Monitors a run: its budget, checks of its first videos, and estimates of time and cost."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from pav_jax.budget import Budget
from pav_jax.candidates.first_batch_checks import PromptSensitivity, ScoreVariation
from pav_jax.parallel import processes
from pav_jax.progress import HOUR_S, format_seconds

log = logging.getLogger(__name__)

NUM_ESTIMATES = 2  # after the first batch, and after the second, which compiles nothing


class RunMonitor:
    """Monitors the stages of one run in one work directory.

    Args:
      section: `config.budget`.
      budget: the budget of the work directory.
      videos_of_stages: stage -> maximum number of its videos, in the order of the run.
    """

    def __init__(self, section: Any, budget: Budget, videos_of_stages: Mapping[str, int]):
        self.budget = budget
        self.sensitivity = PromptSensitivity() if section.check_generator else None
        self.variation = ScoreVariation() if section.check_rewards else None
        self._videos_of_stages = dict(videos_of_stages)
        self._num_batches = 0
        self._has_probed = False

    def check_batch(
        self,
        output: Any,
        texts: Sequence[str],
        seeds: Sequence[int],
        rows: Sequence[int],
        prompts: Sequence[str],
    ) -> None:
        """Compare the videos of a batch with each other.

        Args:
          output: what the generator returned.
          texts, seeds, prompts: those of the rows `rows`.
          rows: the rows that are not padding.

        Raises:
          BadInput: the generator ignores its prompts.
        """
        if self.sensitivity is not None and not self.sensitivity.is_decided:
            videos = [output.videos[row] for row in rows]
            errors = [output.errors[row] for row in rows]
            self.sensitivity.add(texts, seeds, videos, errors, prompts)

    def needs_probe(self, seeds: Sequence[int], may_probe: bool) -> bool:
        """Whether to make an extra batch, to see if the generator reads its prompts.

        Args:
          seeds: the seeds of the batch.
          may_probe: whether distinct seeds are a reason too; such videos cannot be compared.
        """
        if self.sensitivity is None or self.sensitivity.is_decided or self._has_probed:
            return False
        has_own_seeds = len(set(seeds)) == len(seeds) > 1
        self._has_probed = self.sensitivity.is_suspicious or (may_probe and has_own_seeds)
        return self._has_probed

    def check_scores(self, records: Sequence[Any], weights: Mapping[str, float]) -> None:
        """Check the scores of a batch.

        Raises:
          BadInput: a weighted score is constant.
        """
        if self.variation is not None:
            self.variation.add(records, weights)

    def log_estimate(self, stage: str, num_made: int, seconds: float, num_left: int) -> None:
        """Log, after the first batches, how long the videos that are left take and cost.

        Args:
          stage: the stage of the batch, such as "prefer_1".
          num_made: number of videos of the batch, made in `seconds`.
          num_left: number of videos that this stage has left.
        """
        self._num_batches += 1
        if self._num_batches > NUM_ESTIMATES or not num_made:
            return
        names = list(self._videos_of_stages)
        later = names[names.index(stage) + 1 :] if stage in names else []
        num_left += sum(self._videos_of_stages[name] for name in later)
        seconds_left = num_left * seconds / (num_made * jax.process_count())
        cost = self.budget.cost(seconds_left / HOUR_S)
        log.info(
            "estimate after batch %d: %d videos in %s%s; at most %s more videos take %s%s, without"
            " training",
            self._num_batches,
            num_made,
            format_seconds(seconds),
            " with compilation" if self._num_batches == 1 else "",
            f"{num_left:,}",
            format_seconds(seconds_left),
            "" if cost is None else f" and cost {cost:,.2f} USD",
        )

    def limit_before_batch(self, num_videos: int) -> str | None:
        """The limit that forbids this process another batch, as text; None: there is none."""
        return self.budget.limit_of_videos(num_videos) or self.budget.limit_of_time()

    def agreed_limit(self, limit: str | None) -> str | None:
        """The limit that any process has reached, as text; call it in all processes at once."""
        if not self.budget.has_limits or not processes.any_process(limit is not None):
            return None
        return limit or "the budget is reached in another process"
