"""The scored-video store: makes videos in batches of a fixed size, scores and records them.

Evolution, preference rounds, GRPO, evaluation and the trust measurements all work on such a store.
A caller requests videos (a text and a generator seed) and the views of each to score. A view is the
subject of one record, for example the prompt that the video is scored against. The store pads the
batches, writes one record per view under a key derived from its content, and never repeats recorded
work.
"""

import abc
import dataclasses
import itertools
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import jax
import numpy as np
from jaxtyping import UInt8

from pav_jax.candidates.score_means import ScoreMeans
from pav_jax.errors import BadInput
from pav_jax.parallel import processes
from pav_jax.records import candidate_key
from pav_jax.storage.records import SegmentFolder
from pav_jax.video.generator import GeneratedVideo
from pav_jax.video.images import PromptImage
from pav_jax.video.no_videos import NoVideos

View = TypeVar("View")
Record = TypeVar("Record", bound="KeyedRecord")
Item = TypeVar("Item")


class KeyedRecord(Protocol):
    """A record identified by a key derived from its content."""

    @property
    def key(self) -> str:
        """Identifies the record in its store."""
        ...


@dataclasses.dataclass(frozen=True)
class VideoRequest(Generic[View]):
    """A video to make, and the views of it to score.

    Attributes:
      text: the text that the generator receives.
      seed: the generator's seed.
      views: each becomes one record.
      image: the image that the generator receives; None without one.
    """

    text: str
    seed: int
    views: tuple[View, ...]
    image: PromptImage | None = None

    @property
    def image_digest(self) -> str | None:
        """What identifies the image; None without one."""
        return None if self.image is None else self.image.digest


@dataclasses.dataclass(frozen=True)
class _Batch(Generic[View]):
    """A batch whose videos are being made.

    Attributes:
      requests: at most `batch_size`.
      wait: waits for and returns the videos; None if every view is recorded.
      started_at: start time in seconds, on the monotonic clock.
    """

    requests: Sequence[VideoRequest[View]]
    wait: Callable[[], Any] | None
    started_at: float


@dataclasses.dataclass(frozen=True)
class FinishedBatch:
    """A batch whose records are written.

    Attributes:
      requests: the requests of the batch.
      output: what the generator returned, including padding.
      rows: the rows whose videos were missing.
      records: the records that were made.
      seconds: how long the batch took.
    """

    requests: Sequence[VideoRequest[Any]]
    output: Any
    rows: Sequence[int]
    records: Sequence[Any]
    seconds: float


class BatchObserver(Protocol):
    """Is called by a store before and after its batches."""

    def may_start(self, num_videos: int) -> bool:
        """Whether to make another batch with this many missing videos."""
        ...

    def after_batch(self, batch: FinishedBatch) -> None:
        """A batch was made."""
        ...

    def no_more_batches(self) -> None:
        """This process has made all its batches; others may have more."""
        ...

    def after_round(self) -> None:
        """All processes have finished what they were given; may end the run."""
        ...


class ScoredVideoStore(abc.ABC, Generic[View, Record]):
    """Makes, scores and records videos in batches of exactly `batch_size`.

    A request keeps its row of a batch even if other rows are already recorded, so a restart runs
    the same program on the same rows. The next batch is generated while one is scored. A killed
    process loses at most the batches in progress.

    A subclass defines its records: `record_type`, `key`, `score_views` and `make_record`.

    Args:
      generator: a `video.generator.Generator`.
      suite: a `rewards.suite.RewardSuite`.
      folder: folder of the record segments.
      batch_size: videos in one call of the generator, views in one call of the rewards; the last
        batch is padded.

    Attributes:
      videos_made: number of videos made by this process.
      seconds: time that this process spent on them.
      views_cached: number of views that `score` found recorded.
      videos_seen: number of videos of finished batches, made or recorded before.
      makes_videos: False where all rewards read texts only.
      observer: is called before and after batches, and may end the run; None: nothing is called.
      means: running means of the scores of the records.
    """

    record_type: ClassVar[type]

    def __init__(self, generator: Any, suite: Any, folder: Any, *, batch_size: int):
        if batch_size < 1:
            raise BadInput(
                f"generator.batch_size={batch_size}: must be at least 1",
                source="configuration",
                field="generator.batch_size",
            )
        self.generator = generator
        self.makes_videos = not isinstance(generator, NoVideos)
        self.suite = suite
        self._segments = SegmentFolder(folder, self.record_type, jax.process_index())
        self.folder = self._segments.folder
        self.batch_size = batch_size
        self.videos_made = 0
        self.seconds = 0.0
        self.views_cached = 0
        self.videos_seen = 0
        self.observer: BatchObserver | None = None
        self.means = ScoreMeans()
        self._finished_at = 0.0  # when the last batch was recorded
        self._records: dict[str, Record] = {r.key: r for r in self._segments.read()}
        self.means.add(map(self.scores_to_report, self._records.values()))

    # ---------------------------------------------------------------- for subclasses

    @abc.abstractmethod
    def key(self, request: VideoRequest[View], view: View) -> str:
        """Return the key of the view's record, derived from its content."""

    @abc.abstractmethod
    def score_views(
        self,
        videos: UInt8[np.ndarray, "B T H W 3"],
        rows: Sequence[tuple[VideoRequest[View], View]],
    ) -> Sequence[Any]:
        """Score B videos, each for the view in its row; return one result per row.

        Padding repeats a row, so B is always `batch_size`.
        """

    @abc.abstractmethod
    def make_record(
        self,
        request: VideoRequest[View],
        view: View,
        video: GeneratedVideo,
        scores: Any,
    ) -> Record:
        """Return the record of a view.

        Args:
          scores: the view's row of `score_views`.
        """

    def view_group(self, view: View) -> Hashable:
        """Return the view's group: views of one group are scored and recorded together."""
        return None

    def scores_to_report(self, record: Any) -> Mapping[str, float]:
        """Return the scores of a record that enter the running means; by default none."""
        del record
        return {}

    # ---------------------------------------------------------------- records

    @property
    def records(self) -> dict[str, Record]:
        """Everything recorded so far, by key."""
        return self._records

    def reload(self) -> None:
        """Read the records of the folder, including those of other processes."""
        self._records = {r.key: r for r in self._segments.update()}
        self.means = ScoreMeans()
        self.means.add(map(self.scores_to_report, self._records.values()))

    def wait_for_processes(self, name: str) -> None:
        """Wait until every process has finished the task `name`, then reload the records.

        Raises:
          BudgetReached: the observer of this or another process has ended the run.
        """
        processes.call_after_barrier(name, self.reload)
        if self.observer is not None:
            self.observer.after_round()

    # ---------------------------------------------------------------- making and scoring

    def score(self, requests: Iterable[VideoRequest[View]]) -> Iterator[int]:
        """Make and score the missing videos; yield how many views finished since the last yield.

        Args:
          requests: read lazily, a batch at a time. Their order must not depend on the records.
        """
        yield from self._score_batches(batched(requests, self.batch_size))

    def score_shared(self, requests: Iterable[VideoRequest[View]], name: str) -> Iterator[int]:
        """Like `score`, but given all requests in every process; each takes its share of batches.

        Afterwards every process has all records.
        """
        batches = list(batched(requests, self.batch_size))
        yield from self._score_batches(processes.shard_for_process(batches))
        self.wait_for_processes(name)

    def _score_batches(self, batches: Iterable[list[VideoRequest[View]]]) -> Iterator[int]:
        waiting: _Batch[View] | None = None
        is_forbidden = False
        for requests in batches:
            num_missing = sum(map(self._missing, requests)) if self.makes_videos else 0
            if num_missing and self.observer and not self.observer.may_start(num_missing):
                is_forbidden = True
                break
            started = self._start(requests)
            if waiting is not None:
                yield from self._finish(waiting)
            waiting = started
        if waiting is not None:
            yield from self._finish(waiting)
        if self.observer is not None and not is_forbidden:
            self.observer.no_more_batches()

    def _missing(self, request: VideoRequest[View]) -> bool:
        return any(self.key(request, view) not in self._records for view in request.views)

    def _start(self, requests: Sequence[VideoRequest[View]]) -> _Batch[View]:
        """Start the generator on a full batch, each request in its own row, without waiting."""
        started_at = time.monotonic()
        missing = [request for request in requests if self._missing(request)]
        if not missing:
            return _Batch(requests, None, started_at)
        # rows that need no video, and padding rows, repeat the first missing request
        rows = [r if self._missing(r) else missing[0] for r in requests]
        rows += [missing[0]] * (self.batch_size - len(rows))
        wait = start_videos(
            self.generator, [r.text for r in rows], [r.seed for r in rows], [r.image for r in rows]
        )
        return _Batch(requests, wait, started_at)

    def _finish(self, batch: _Batch[View]) -> Iterator[int]:
        """Wait for the videos, score their views group by group, and record each group."""
        views = [
            (row, view) for row, request in enumerate(batch.requests) for view in request.views
        ]
        self.videos_seen += len(batch.requests)
        if batch.wait is None:
            self.views_cached += len(views)
            yield len(views)
            return
        output = batch.wait()
        missing_rows = {row for row, r in enumerate(batch.requests) if self._missing(r)}
        made: list[Any] = []
        num_finished = 0
        for group in dict.fromkeys(self.view_group(view) for _, view in views):
            if num_finished:
                yield num_finished
            members = [(row, view) for row, view in views if self.view_group(view) == group]
            records = list(self._score_group(batch.requests, members, output))
            self._segments.write(records)
            made += records
            self._records |= {record.key: record for record in records}
            self.means.add(map(self.scores_to_report, records))
            num_finished = len(members)
        finished_at = time.monotonic()
        self.videos_made += len(missing_rows) if self.makes_videos else 0
        seconds = finished_at - max(batch.started_at, self._finished_at)
        self.seconds += seconds
        self._finished_at = finished_at
        yield num_finished  # after counting: the caller reports the rate
        if self.observer is not None:
            self.observer.after_batch(
                FinishedBatch(batch.requests, output, sorted(missing_rows), made, seconds)
            )

    def _score_group(
        self, requests: Sequence[VideoRequest[View]], members: list[tuple[int, View]], output: Any
    ) -> Iterator[Record]:
        """Score the views of a group that have no record, `batch_size` at a time."""
        for chunk in batched(members, self.batch_size):
            missing = [self.key(requests[row], view) not in self._records for row, view in chunk]
            if not any(missing):
                continue
            filler = chunk[missing.index(True)]
            rows = [m if new else filler for m, new in zip(chunk, missing, strict=True)]
            rows += [filler] * (self.batch_size - len(rows))
            results = self.score_views(
                output.videos[[row for row, _ in rows]],
                [(requests[row], view) for row, view in rows],
            )
            for (row, view), new, result in zip(chunk, missing, results, strict=False):
                if new:
                    yield self.make_record(requests[row], view, output[row], result)

    def video_key(self, prompt: str, text: str, seed: int, image: str | None = None) -> str:
        """Return the key of the generator's video of `text`, scored against `prompt`.

        Args:
          image: digest of the image that the video is made from.
        """
        return candidate_key(prompt, text, seed, self.generator.fingerprint, image)


def start_videos(
    generator: Any, texts: list[str], seeds: list[int], images: Sequence[PromptImage | None]
) -> Callable[[], Any]:
    """Start a batch of videos; a generator of texts alone is called without `image`."""
    if not any(images):
        return generator.start(texts, seeds)
    return generator.start(texts, seeds, image=list(images))


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Split `items` into lists of `size`; the last may be shorter."""
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch
