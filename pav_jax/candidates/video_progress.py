"""Progress of a stage that makes and scores videos, which may end it at a limit."""

from collections.abc import Hashable, Sequence
from typing import Any

import jax

from pav_jax.budget import budget_reached
from pav_jax.candidates.run_monitor import RunMonitor
from pav_jax.candidates.store import (
    FinishedBatch,
    ScoredVideoStore,
    VideoRequest,
    start_videos,
)
from pav_jax.parallel import processes
from pav_jax.progress import Progress, format_seconds


class VideoProgress:
    """Progress of a stage over all its videos: a task of the display, and scalars.

    The text of the task has the running mean of every score. After each batch that was made, the
    means and the rate are added to the stage's TensorBoard file; the step is the number done.

    Args:
      stage: the description of the task, such as "prefer, round 1".
      total: number of videos, or views of videos, of all processes.
      store: the store that makes and scores the videos.
      progress: a `pav_jax.progress.Progress` or a `rich.progress.Progress`; None: nothing is shown.
      unit: what is counted.
      scalars: the name of the TensorBoard file and of the stage in estimates; None: `stage`.
      may_probe: whether an extra batch of videos may be made to check that the generator reads its
        prompts, because the stage's own videos would show this late.
      monitor: monitors the run; None: the monitor of `progress`, if any.
      num_videos: number of videos of all processes, for estimates, where `total` counts views.
    """

    def __init__(
        self,
        stage: str,
        total: int,
        store: ScoredVideoStore,
        progress: Any = None,
        unit: str = "videos",
        scalars: str | None = None,
        may_probe: bool = False,
        monitor: RunMonitor | None = None,
        num_videos: int | None = None,
    ):
        self.store = store
        self.total = total
        unit = unit if store.makes_videos else unit.replace("videos", "rewrites")
        self._unit = unit
        self.done = 0
        self._done_before = 0  # when the round started
        self._num_finished = 0  # by this process, since then
        self._weights = getattr(store, "weights", store.suite.weights)
        self._progress = progress
        self._task = progress.add_task(stage, total=total, unit=unit) if progress else None
        self._scalars = None
        if isinstance(progress, Progress):
            self._scalars = progress.scalars(scalars or stage)
        self._stage = stage
        self._name = scalars or stage
        self._may_probe = may_probe and not store.records
        self._limit: str | None = None
        self._monitor: RunMonitor | None = monitor or getattr(progress, "monitor", None)
        if self._monitor is not None:
            store.observer = self
        self._num_videos = num_videos
        self._videos_before = store.videos_seen
        self._videos_logged = store.videos_made
        self._cached_before = store.views_cached

    def advance(self, num_finished: int) -> None:
        """Count videos that this process has scored, or that an earlier run recorded."""
        # the processes take equal shares
        self._num_finished += num_finished
        self.done = min(self.done + num_finished * jax.process_count(), self.total)
        self._update()

    def advance_to(self, done: int) -> None:
        """Advance to at least `done`; missing rewrites count as done."""
        self.done = max(done, self.done)
        self._done_before = self.done
        self._num_finished = 0
        self._update()

    def show(self, text: str) -> None:
        """Say what the stage does until its first videos are finished."""
        if self._progress:
            self._progress.update(self._task, text=text)

    def rate(self) -> str:
        """Return the videos per second of this process and the time left, for a log line."""
        if not self.store.makes_videos:
            return "no videos needed"
        if not self.store.videos_made:
            return "all videos cached"
        left = format_seconds(max(self.total - self.done, 0) / self._videos_per_second())
        return f"{self._videos_per_second():.2f} videos/s, {left} left"

    def may_start(self, num_videos: int) -> bool:
        """Whether the budget allows another batch; see `RunMonitor.claim_videos`."""
        assert self._monitor is not None
        total, self._limit = self._monitor.claim_videos(num_videos)
        return self._limit is None and total > 0

    def no_more_batches(self) -> None:
        """Wait until no process makes another batch, or a limit forbids it."""
        assert self._monitor is not None
        while self._monitor.budget.has_limits and self.may_start(0):
            pass

    def after_round(self) -> None:
        """End the run if a limit is reached.

        Raises:
          BudgetReached: the message says how far the stage came.
        """
        assert self._monitor is not None
        self._monitor.end_round()
        if self._limit is not None:
            (num_finished,) = processes.sum_of_processes([self._num_finished])
            done = self._done_before + num_finished
            position = f"{self._stage}: {done:,} of {self.total:,} {self._unit}"
            raise budget_reached(self._limit, position)

    def after_batch(self, batch: FinishedBatch) -> None:
        """Check the first videos and scores, and log an estimate for the remaining videos.

        Raises:
          BadInput: the generator ignores its prompts, or a score is constant.
        """
        assert self._monitor is not None
        if not self.store.makes_videos:
            self._monitor.check_scores(batch.records, self._weights)
            return
        requests = [batch.requests[row] for row in batch.rows]
        texts = [request.text for request in requests]
        sources = [_source(request) for request in requests]
        prompts = [getattr(r.views[0], "prompt", r.text) for r in requests]
        self._monitor.check_batch(batch.output, texts, sources, batch.rows, prompts)
        if self._monitor.needs_probe(sources, self._may_probe):
            self._probe(requests, texts, prompts)
        self._may_probe = False
        self._monitor.check_scores(batch.records, self._weights)
        num_left = self.total - self.done
        if self._num_videos is not None:
            num_seen = (self.store.videos_seen - self._videos_before) * jax.process_count()
            num_left = max(self._num_videos - num_seen, 0)
        self._monitor.log_estimate(self._name, len(requests), batch.seconds, num_left)

    def _probe(
        self, requests: Sequence[VideoRequest], texts: Sequence[str], prompts: Sequence[str]
    ) -> None:
        """Make the same videos with the seeds and images in reverse order, and compare."""
        assert self._monitor is not None
        others = requests[::-1]
        filler = self.store.batch_size - len(texts)
        padded = [*others, *[others[0]] * filler]
        output = start_videos(
            self.store.generator,
            [*texts, *[texts[0]] * filler],
            [request.seed for request in padded],
            [request.image for request in padded],
        )()
        sources = [_source(request) for request in others]
        self._monitor.check_batch(output, texts, sources, range(len(texts)), prompts)

    def add_scalars(self, step: int, values: dict[str, float]) -> None:
        """Add scalars of the stage's own to its TensorBoard file."""
        if self._scalars is not None:
            self._scalars.add(step, values)

    def _videos_per_second(self) -> float:
        return self.store.videos_made * jax.process_count() / self.store.seconds

    def _update(self) -> None:
        if not self._progress:
            return
        means = self.store.means.values(self._weights)
        text = ", ".join(f"{name} {mean:.3f}" for name, mean in means.items())
        cached = (self.store.views_cached - self._cached_before) * jax.process_count()
        self._progress.update(
            self._task, completed=self.done, num_cached=min(cached, self.done), text=text
        )
        if self._scalars is not None and self.store.videos_made > self._videos_logged:
            self._videos_logged = self.store.videos_made
            rate = {"videos_per_second": self._videos_per_second()}
            self._scalars.add(self.done, {f"mean/{n}": v for n, v in means.items()} | rate)
            self._scalars.flush()


def _source(request: VideoRequest) -> Hashable:
    """What a video follows from besides its text: only those of one source are compared."""
    return request.seed if request.image is None else (request.seed, request.image_digest)
