"""Monitors a run: its budget, checks of its first videos, and estimates of time and cost."""

import logging
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import jax

from pav_jax.budget import Budget, budget_reached
from pav_jax.candidates.first_batch_checks import PromptSensitivity, ScoreVariation
from pav_jax.parallel import processes
from pav_jax.progress import HOUR_S, format_seconds

log = logging.getLogger(__name__)

OTHER_PROCESS = "a limit of hours or money is reached in another process"
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
        self._num_claimed = 0  # videos of this process in this round, if there are no limits

    def check_batch(
        self,
        output: Any,
        texts: Sequence[str],
        sources: Sequence[Hashable],
        rows: Sequence[int],
        prompts: Sequence[str],
    ) -> None:
        """Compare the videos of a batch with each other.

        Args:
          output: what the generator returned.
          texts, prompts: those of the rows `rows`.
          sources: the seeds of these rows, or (seed, digest of the image).
          rows: the rows that are not padding.

        Raises:
          BadInput: the generator ignores its prompts.
        """
        if self.sensitivity is not None and not self.sensitivity.is_decided:
            videos = [output.videos[row] for row in rows]
            errors = [output.errors[row] for row in rows]
            self.sensitivity.add(texts, sources, videos, errors, prompts)

    def needs_probe(self, sources: Sequence[Hashable], may_probe: bool) -> bool:
        """Whether to make an extra batch, to see if the generator reads its prompts.

        Args:
          sources: of the batch, as for `check_batch`.
          may_probe: whether distinct sources are a reason too; such videos cannot be compared.
        """
        if self.sensitivity is None or self.sensitivity.is_decided or self._has_probed:
            return False
        are_distinct = len(set(sources)) == len(sources) > 1
        self._has_probed = self.sensitivity.is_suspicious or (may_probe and are_distinct)
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

    def claim_videos(self, number: int) -> tuple[int, str | None]:
        """Count the videos of the next batch of every process, unless a limit forbids them.

        If there are limits, all processes call this together, so that all stop before the same
        batch; one that has no more batches passes 0 until all do.

        Args:
          number: videos of this process.

        Returns:
          (videos of all processes, the limit that forbids them, as text, or None).
        """
        if not self.budget.has_limits:
            self._num_claimed += number
            self.budget.add_videos(number * jax.process_count())  # `end_round` corrects it
            return number, None
        limit = self.budget.limit_of_time()
        total, num_late = processes.sum_of_processes([number, int(limit is not None)])
        if not total:
            return 0, None
        if num_late:
            return total, limit or OTHER_PROCESS
        limit = self.budget.limit_of_videos(total)
        if limit is None:
            self.budget.add_videos(total)
        return total, limit

    def end_round(self) -> None:
        """Correct the count, since processes may have unequal shares; all call it together."""
        if self.budget.has_limits:
            return
        (total,) = processes.sum_of_processes([self._num_claimed])
        self.budget.add_videos(total - self._num_claimed * jax.process_count())
        self._num_claimed = 0

    def limit_of_time(self) -> str | None:
        """The limit of hours or money that a process has reached; all call it together."""
        if not self.budget.limits_time:
            return None
        limit = self.budget.limit_of_time()
        if not processes.any_process(limit is not None):
            return None
        return limit or OTHER_PROCESS

    def check_time(self, position: str) -> None:
        """End the run if there is no time or money left; all processes call it together.

        Raises:
          BudgetReached: says how far the run came.
        """
        if limit := self.limit_of_time():
            raise budget_reached(limit, position)
