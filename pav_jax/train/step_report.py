"""What a training run tells while it runs: steps done, the latest metrics, TensorBoard scalars."""

from typing import Any

import jax

from pav_jax.budget import budget_reached
from pav_jax.progress import Progress
from pav_jax.storage.addresses import AnyPath
from pav_jax.storage.scalars import ScalarLog


class StepReport:
    """Reports steps to a task of its own in the caller's progress display.

    Args:
      stage: the description of the task.
      num_steps: of the whole run.
      progress: a `pav_jax.progress.Progress` or a `rich.progress.Progress`; None: no display.
      folder: of the training run; `round_N` adds its number to the names of the task and of the
        TensorBoard file. Its `logs` get the TensorBoard file where `progress` is not a
        `pav_jax.progress.Progress`, which says itself where it goes.
      unit: what is counted.
      is_detail: whether the task is a part of another one.

    Attributes:
      scalars: the TensorBoard file.
    """

    def __init__(
        self,
        stage: str,
        num_steps: int,
        progress: Any,
        folder: AnyPath,
        unit: str = "steps",
        is_detail: bool = False,
    ):
        number = folder.name.partition("round_")[2]
        self.scalars = ScalarLog(None)
        if isinstance(progress, Progress) and not is_detail:
            self.scalars = progress.scalars(f"{stage}_{number}" if number else stage)
        elif not is_detail and jax.process_index() == 0:
            self.scalars = ScalarLog(folder / "logs")
        self._progress = progress
        self._monitor = getattr(progress, "monitor", None)
        self._limit: str | None = None
        self._description = f"{stage}, round {number}" if number else stage
        self._task: Any = None
        self._num_cached = 0 if is_detail else None  # steps of earlier runs; None: not known yet
        if progress is not None:
            self._task = progress.add_task(
                self._description, total=num_steps, unit=unit, is_detail=is_detail
            )

    def must_stop(self) -> bool:
        """Whether a limit of hours or money is reached; all processes call it together."""
        if self._monitor is None:
            return False
        self._limit = self._monitor.limit_of_time()
        return self._limit is not None

    def raise_if_stopped(self, done: int, num_steps: int) -> None:
        """End the run if `must_stop` was true.

        Raises:
          BudgetReached: says how far training came.
        """
        if self._limit is not None:
            raise budget_reached(
                self._limit, f"{self._description}: {done:,} of {num_steps:,} steps"
            )

    def __call__(self, steps_done: int, text: str) -> None:
        """Report the steps done, of earlier runs too, and a short text."""
        if self._num_cached is None:
            self._num_cached = steps_done
        if self._progress is not None:
            self._progress.update(
                self._task, completed=steps_done, num_cached=self._num_cached, text=text
            )
