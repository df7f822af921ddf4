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
from jaxtyping import UInt8

from pav_jax.checkpoints.digest import file_digest
from pav_jax.errors import BadInput
from pav_jax.language.chat_endpoint import EndpointDown
from pav_jax.rewards.reward import Reward
from pav_jax.rewards.score_cache import ScoreCache
from pav_jax.rewards.suite import CONSTRAINT_ONLY, HELD_OUT, RewardSuite
from pav_jax.storage.folders import local_copy
from pav_jax.video.reading import read_mp4

# videos in a batch: the batch size of a CLIP tower's image program, which takes one contact sheet
# per video
BATCH_SIZE = 32
MAX_WAITING_BYTES = 2**30  # of decoded videos that wait for others of their shape
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
      video_TxHxWx3: the decoded video; None before it is decoded, and once it is in a batch.
      failed: the file cannot be read.
    """

    index: int
    path: str
    prompt: str
    digest: str | None = None
    scores: dict[str, float] = dataclasses.field(default_factory=dict)
    pending: tuple[int, ...] = ()
    video_TxHxWx3: np.ndarray | None = None
    problems: list[str] = dataclasses.field(default_factory=list)
    failed: bool = False

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

        Rewards that compare the prompt with a rewrite (FAITH) are left out, because the rewrites
        that the files were made from are not known.

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
            if set(reward.names) <= set(CONSTRAINT_ONLY):
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
        for batch in self._batches(prefetched(self._read, jobs, self.threads), finish):
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
                job.video_TxHxWx3 = read_mp4(path)
                _check_aspect_ratio(job.path, job.video_TxHxWx3)
        except BadInput as error:
            job.failed = True
            job.problems.append(str(error))
        except OSError as error:
            job.failed = True
            job.problems.append(f"{job.path}: cannot be read ({error.strerror or error})")
        if job.failed:
            job.video_TxHxWx3 = None
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
        waiting: dict[tuple[int, ...], list[_Job]] = {}

        def waiting_bytes(shape: tuple[int, ...]) -> int:
            return len(waiting[shape]) * math.prod(shape)

        for job in jobs:
            if job.video_TxHxWx3 is None:
                finish([job])
                continue
            shape = job.video_TxHxWx3.shape
            batch = waiting.setdefault(shape, [])
            batch.append(job)
            if len(batch) == batch_size_for(shape, self.batch_size):
                yield waiting.pop(shape)
            while sum(map(waiting_bytes, waiting)) > MAX_WAITING_BYTES:
                yield waiting.pop(max(waiting, key=waiting_bytes))
        yield from waiting.values()

    def _score_batch(self, jobs: Sequence[_Job]) -> None:
        videos_BxTxHxWx3 = np.stack([_take_video(job) for job in jobs])
        for i, (_, reward) in enumerate(self.rewards):
            rows = [row for row, job in enumerate(jobs) if i in job.pending]
            if not rows:
                continue
            pending = [jobs[row] for row in rows]
            videos = videos_BxTxHxWx3 if len(rows) == len(jobs) else videos_BxTxHxWx3[rows]
            for job, scores in zip(pending, _reward_scores(reward, videos, pending), strict=True):
                if scores is None:
                    scores = dict.fromkeys(reward.names, math.nan)
                else:
                    self._cache_scores(job, i, scores)
                self._add_scores(job, i, scores)


def _take_video(job: _Job) -> np.ndarray:
    """The job's video, which is released from the job because the batch is a copy."""
    video = job.video_TxHxWx3
    assert video is not None
    job.video_TxHxWx3 = None
    return video


def _reward_scores(
    reward: Reward, videos_BxTxHxWx3: UInt8[np.ndarray, "B T H W 3"], jobs: Sequence[_Job]
) -> list[dict[str, float] | None]:
    """A reward's scores of each video; None where it refuses the video.

    If it refuses a batch, its videos are scored one by one.
    """
    try:
        scores = reward.score(videos_BxTxHxWx3, [job.prompt for job in jobs])
    except (BadInput, MemoryError, JaxRuntimeError) as error:
        if len(jobs) > 1 and not isinstance(error, EndpointDown):
            singles = (
                _reward_scores(reward, videos_BxTxHxWx3[row : row + 1], [job])
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


def _check_aspect_ratio(path: str, video_TxHxWx3: UInt8[np.ndarray, "T H W 3"]) -> None:
    _, height, width, _ = video_TxHxWx3.shape
    if max(height, width) > MAX_ASPECT_RATIO * min(height, width):
        raise BadInput(
            f"{path}: {width} x {height} pixels; the longer side may be at most"
            f" {MAX_ASPECT_RATIO} times the shorter one",
            path,
        )


def batch_size_for(shape: Sequence[int], batch_size: int) -> int:
    """Halves a batch size until videos of `shape` [T, H, W, 3] fit into MAX_WAITING_BYTES."""
    while batch_size > 1 and batch_size * math.prod(shape) > MAX_WAITING_BYTES:
        batch_size //= 2
    return batch_size


def prefetched(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int
) -> Iterator[Result]:
    """Yields `function(item)` of each item in order, computed ahead on threads.

    At most two results per thread are computed ahead.
    """
    futures: collections.deque[concurrent.futures.Future[Result]] = collections.deque()
    pool = concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix="decode")
    try:
        for item in items:
            futures.append(pool.submit(function, item))
            if len(futures) >= 2 * threads:
                yield futures.popleft().result()
        while futures:
            yield futures.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
