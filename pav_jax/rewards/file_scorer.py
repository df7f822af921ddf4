"""Scores of video files: files are read and decoded on host threads while the device scores others.

Decoded videos are taken in the order of the files and collected into batches of one shape, so the
batches do not depend on which thread is faster. Rewards pad their programs to fixed sizes
themselves, hence each shape is compiled once. A file that cannot be read, or that a reward cannot
score, does not affect the others.

Shapes: B videos of a batch, T frames, H, W height and width in pixels.
"""

import collections
import concurrent.futures
import dataclasses
import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np
from jax.errors import JaxRuntimeError

from pav_jax.checkpoints.digest import file_digest
from pav_jax.errors import BadInput
from pav_jax.language.chat_endpoint import EndpointDown
from pav_jax.rewards.clips import Clips, read_clips
from pav_jax.rewards.registry import reads_video
from pav_jax.rewards.reward import Reward, score_with_times
from pav_jax.rewards.score_cache import ScoreCache
from pav_jax.rewards.suite import HELD_OUT, RewardSuite
from pav_jax.storage.folders import local_copy

# videos in a batch: the batch size of a CLIP tower's image program, which takes one contact sheet
# per video
BATCH_SIZE = 32
MAX_WAITING_BYTES = 2**30  # of decoded videos that wait for others of their shape
MAX_AHEAD_BYTES = 2**29  # of decoded videos that wait for the videos before them
MAX_THREADS = 8  # more threads decode faster than rewards can score
# longer side / shorter side; a CLIP tower's resize of a longer strip would need too much memory
MAX_ASPECT_RATIO = 32

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class ScoredFile:
    """The scores of a video file.

    Attributes:
      scores: by name, NaN where a reward could not score it; None where the file cannot be read.
      problems: one line each, with the path and the reason.
    """

    path: str
    prompt: str
    scores: dict[str, float] | None
    problems: tuple[str, ...]


@dataclasses.dataclass
class _Job:
    """A file that is being scored.

    Attributes:
      index: position among all files.
      digest: of the file; None without a cache.
      pending: indices of the rewards whose scores were not in the cache.
      clips: the decoded video; None before it is decoded, and once it is in a batch.
      failed: the file cannot be read.
    """

    index: int
    path: str
    prompt: str
    digest: str | None = None
    scores: dict[str, float] = dataclasses.field(default_factory=dict)
    pending: tuple[int, ...] = ()
    clips: Clips | None = None
    problems: list[str] = dataclasses.field(default_factory=list)
    failed: bool = False

    @property
    def num_bytes(self) -> int:
        return 0 if self.clips is None else self.clips.num_bytes

    def result(self) -> ScoredFile:
        scores = None if self.failed else self.scores
        problems = tuple(" ".join(problem.split()) for problem in self.problems)
        return ScoredFile(self.path, self.prompt, scores, problems)


class FileScorer:
    """Scores files with the rewards of a suite.

    Attributes:
      rewards: (prefix of its scores' names, reward), in the order of the suite, held-out last.
      batch_size: the most videos that are scored together.
    """

    def __init__(
        self,
        suite: RewardSuite,
        names: Iterable[str] | None = None,
        cache: ScoreCache | None = None,
        batch_size: int = BATCH_SIZE,
        threads: int | None = None,
    ):
        """Selects the rewards to use.

        Rewards that read rewrites only, such as FAITH, are left out, because the rewrites that the
        files were made from are not known.

        Args:
          names: use only rewards with one of these scores; None: all.
          cache: scores are read from and written to it.
          threads: that decode; by default one per core, at most MAX_THREADS.
        """
        candidates = [("", reward) for reward in suite.rewards]
        candidates += [(HELD_OUT, reward) for reward in suite.held_out_rewards]
        requested = None if names is None else set(names)
        self.rewards: list[tuple[str, Reward]] = []
        for prefix, reward in candidates:
            score_names = {prefix + name for name in reward.names}
            if not reads_video(reward):
                continue
            if requested is None or requested & score_names:
                self.rewards.append((prefix, reward))
        self.cache = cache
        self.batch_size = batch_size
        self.threads = threads or min(MAX_THREADS, os.cpu_count() or 1)
        self._fingerprints = [reward.fingerprint if cache else None for _, reward in self.rewards]

    def score(
        self,
        paths: Sequence[str],
        prompts: Sequence[str],
        progress: Callable[[int], None] | None = None,
    ) -> list[ScoredFile]:
        """Scores files against the users' prompts.

        Args:
          prompts: one per file.
          progress: called with the number of files that were just finished.

        Returns:
          One result per file, in order. What is wrong with a file is in its result.
        """
        results: dict[int, ScoredFile] = {}

        def finish(jobs: Sequence[_Job]) -> None:
            for job in jobs:
                results[job.index] = job.result()
            if progress is not None and jobs:
                progress(len(jobs))

        pairs = zip(paths, prompts, strict=True)
        jobs = (_Job(i, str(path), prompt) for i, (path, prompt) in enumerate(pairs))
        decoded = prefetched(self._read, jobs, self.threads, lambda job: job.num_bytes)
        for batch in self._batches(decoded, finish):
            self._score_batch(batch)
            finish(batch)
        return [results[i] for i in range(len(paths))]

    def _read(self, job: _Job) -> _Job:
        """Runs on a host thread: looks up cached scores, and decodes if any is missing."""
        try:
            path = local_copy(job.path)
            if self.cache and path.is_file():
                job.digest = file_digest(path)
            pending = []
            for i in range(len(self.rewards)):
                scores = self._cached_scores(job, i)
                if scores is None:
                    pending.append(i)
                else:
                    self._add_scores(job, i, scores)
            job.pending = tuple(pending)
            if pending:
                job.clips = read_clips(path, {i: self.rewards[i][1] for i in pending})
                _check_aspect_ratio(job.path, job.clips.shape)
        except BadInput as error:
            job.failed = True
            job.problems.append(str(error))
        except OSError as error:
            job.failed = True
            job.problems.append(f"{job.path}: cannot be read ({error.strerror or error})")
        if job.failed:
            job.clips = None
        return job

    def _cached_scores(self, job: _Job, index: int) -> dict[str, float] | None:
        fingerprint = self._fingerprints[index]
        if self.cache is None or job.digest is None or fingerprint is None:
            return None
        names = self.rewards[index][1].names
        return self.cache.get(job.digest, job.prompt, fingerprint, names)

    def _cache_scores(self, job: _Job, index: int, scores: Mapping[str, float]) -> None:
        fingerprint = self._fingerprints[index]
        reward = self.rewards[index][1]
        if self.cache is None or job.digest is None or fingerprint is None:
            return
        may_change = reward.transient_failures and any(map(math.isnan, scores.values()))
        if set(scores) == set(reward.names) and not may_change:
            self.cache.put(job.digest, job.prompt, fingerprint, scores)

    def _add_scores(self, job: _Job, index: int, scores: Mapping[str, float]) -> None:
        prefix = self.rewards[index][0]
        job.scores |= {prefix + name: value for name, value in scores.items()}

    def _batches(
        self, jobs: Iterable[_Job], finish: Callable[[Sequence[_Job]], None]
    ) -> Iterator[list[_Job]]:
        """Batches of videos of one shape. Jobs without a video are finished at once."""
        waiting: dict[tuple, list[_Job]] = {}

        def waiting_bytes(key: tuple) -> int:
            return sum(job.num_bytes for job in waiting[key])

        for job in jobs:
            if job.clips is None:
                finish([job])
                continue
            key = job.clips.batch_key
            batch = waiting.setdefault(key, [])
            batch.append(job)
            if len(batch) == batch_size_for(job.num_bytes, self.batch_size):
                yield waiting.pop(key)
            while sum(map(waiting_bytes, waiting)) > MAX_WAITING_BYTES:
                yield waiting.pop(max(waiting, key=waiting_bytes))
        yield from waiting.values()

    def _score_batch(self, jobs: Sequence[_Job]) -> None:
        batch = _Batch.take(jobs)
        for i, (_, reward) in enumerate(self.rewards):
            rows = [row for row, job in enumerate(jobs) if i in job.pending]
            if not rows:
                continue
            pending = [jobs[row] for row in rows]
            results = _reward_scores(reward, *batch.inputs(i, rows), pending)
            for job, scores in zip(pending, results, strict=True):
                if scores is None:
                    scores = dict.fromkeys(reward.names, math.nan)
                else:
                    self._cache_scores(job, i, scores)
                self._add_scores(job, i, scores)


@dataclasses.dataclass(frozen=True)
class _Batch:
    """The clips of several jobs, stacked.

    Attributes:
      arrays: [B, n, h, w, 3] each.
      views: reward -> position of its frames in `arrays`; None: they are too large.
      times_BxT: when the frames of the whole videos are shown, in seconds.
    """

    arrays: list[np.ndarray]
    views: dict[int, int | None]
    times_BxT: np.ndarray

    @classmethod
    def take(cls, jobs: Sequence[_Job]) -> "_Batch":
        """Stack the clips of jobs of one `batch_key`, which are released from the jobs."""
        clips = [job.clips for job in jobs if job.clips is not None]
        views = {index: view for part in clips for index, view in part.views.items()}
        arrays = [
            parts[0][None] if len(parts) == 1 else np.stack(parts)
            for parts in zip(*(part.arrays for part in clips), strict=True)
        ]
        for job in jobs:
            job.clips = None
        return cls(arrays, views, np.stack([part.times for part in clips]))

    def inputs(self, index: int, rows: Sequence[int]) -> tuple[np.ndarray | None, np.ndarray]:
        """(frames, times) of some jobs for a reward; no frames where they are too large."""
        view = self.views[index]
        if len(rows) == len(self.times_BxT):
            return None if view is None else self.arrays[view], self.times_BxT
        return None if view is None else self.arrays[view][rows], self.times_BxT[rows]


def _reward_scores(
    reward: Reward, videos: np.ndarray | None, times_BxT: np.ndarray, jobs: Sequence[_Job]
) -> list[dict[str, float] | None]:
    """A reward's scores of each video; None where it refuses the video.

    If it refuses a batch, its videos are scored one by one.
    """
    try:
        if videos is None:
            raise MemoryError
        scores = score_with_times(reward, videos, [job.prompt for job in jobs], times=times_BxT)
    except (BadInput, MemoryError, JaxRuntimeError) as error:
        if len(jobs) > 1 and videos is not None and not isinstance(error, EndpointDown):
            singles = (
                _reward_scores(reward, videos[row : row + 1], times_BxT[row : row + 1], [job])
                for row, job in enumerate(jobs)
            )
            return list(itertools.chain.from_iterable(singles))
        if isinstance(error, JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        is_bad_input = isinstance(error, BadInput)
        reason = error if is_bad_input else "not enough memory for a video of this size"
        for job in jobs:
            job.problems.append(f"{job.path}: no {', '.join(reward.names)} ({reason})")
        return [None] * len(jobs)
    return [
        {name: float(np.float32(values[row])) for name, values in scores.items()}
        for row in range(len(jobs))
    ]


def _check_aspect_ratio(path: str, shape: Sequence[int]) -> None:
    _, height, width, _ = shape
    if max(height, width) > MAX_ASPECT_RATIO * min(height, width):
        raise BadInput(
            f"{path}: {width} x {height} pixels; the longer side may be at most"
            f" {MAX_ASPECT_RATIO} times the shorter one",
            path,
        )


def batch_size_for(num_bytes: int, batch_size: int) -> int:
    """Halves a batch size until videos of `num_bytes` each fit into MAX_WAITING_BYTES."""
    while batch_size > 1 and batch_size * num_bytes > MAX_WAITING_BYTES:
        batch_size //= 2
    return batch_size


def prefetched(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    threads: int,
    num_bytes: Callable[[Result], int] = lambda result: 0,
) -> Iterator[Result]:
    """Yields `function(item)` of each item in order, computed ahead on threads.

    At most two results per thread are computed ahead, and none are started while those that wait
    take more than MAX_AHEAD_BYTES.

    Args:
      num_bytes: the size of a result.
    """
    futures: collections.deque[concurrent.futures.Future[Result]] = collections.deque()

    def is_full() -> bool:
        waiting = sum(num_bytes(future.result()) for future in futures if future.done())
        return len(futures) >= 2 * threads or waiting > MAX_AHEAD_BYTES

    pool = concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix="decode")
    try:
        for item in items:
            futures.append(pool.submit(function, item))
            while futures and is_full():
                yield futures.popleft().result()
        while futures:
            yield futures.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
