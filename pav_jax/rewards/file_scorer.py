"""Scores of video files: read and decoded on host threads while the device scores earlier ones.

Files come back from the threads in the order they were given, and gather in batches of one shape,
so what is batched does not depend on which thread was faster. Rewards fill their programs up to
fixed sizes themselves; a shape is therefore compiled once. A file that cannot be read, or that one
reward cannot score, does not touch the others.

Shapes: B videos of a batch, T frames, H W pixels.
"""

import collections
import concurrent.futures
import dataclasses
import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jax.errors import JaxRuntimeError
from jaxtyping import UInt8

from pav_jax.checkpoints.digest import file_digest
from pav_jax.errors import BadInput
from pav_jax.language.chat_endpoint import EndpointDown
from pav_jax.rewards.reward import Reward
from pav_jax.rewards.score_cache import ScoreCache
from pav_jax.rewards.suite import CONSTRAINT_ONLY, HELD_OUT, RewardSuite
from pav_jax.video.files import read_mp4

# in a batch: the rows of a CLIP tower's program, where the frames of a video are laid out as one
# sheet
VIDEOS = 32
WAITING_BYTES = 2**30  # of decoded videos that wait for others of their shape
THREADS = 8  # at most; decoding is of use only as fast as scoring is
NARROWEST = (
    32  # times as long as wide; with the shorter side as a tower takes it, such a picture is huge
)


@dataclasses.dataclass(frozen=True)
class Scored:
    """`scores`: by name, NaN where there is none; None for a file that cannot be read. `problems`:
    one line each, with the file's name and the reason."""

    path: str
    prompt: str
    scores: dict[str, float] | None
    problems: tuple[str, ...]


@dataclasses.dataclass
class _Work:
    """One file on its way: what is known of it, and the rewards still to be asked."""

    index: int
    path: str
    prompt: str
    digest: str | None = None
    scores: dict[str, float] = dataclasses.field(default_factory=dict)
    asked: tuple[int, ...] = ()
    video_TxHxWx3: np.ndarray | None = None
    problems: list[str] = dataclasses.field(default_factory=list)
    failed: bool = False


class FileScorer:
    """Scores files with the rewards of a suite.

    Attributes:
      rewards: (what stands before its scores' names, reward) in the suite's order, held-out judges
        last.
      batch: videos scored together, at most.
    """

    def __init__(
        self,
        suite: RewardSuite,
        names: Iterable[str] | None = None,
        cache: ScoreCache | None = None,
        batch: int = VIDEOS,
        threads: int | None = None,
    ):
        """`names`: only rewards that give one of these scores are asked; all where None."""
        every = [("", reward) for reward in suite.rewards] + [
            (HELD_OUT, judge) for judge in suite.held_out_rewards
        ]
        # nobody tells what a file was made from, and FAITH compares that with the prompt
        every = [
            (before, reward)
            for before, reward in every
            if not set(reward.names) <= set(CONSTRAINT_ONLY)
        ]
        wanted = None if names is None else set(names)
        self.rewards = [
            (before, reward)
            for before, reward in every
            if wanted is None or wanted & {before + name for name in reward.names}
        ]
        self.cache, self.batch = cache, batch
        self.threads = threads or min(THREADS, os.cpu_count() or 1)
        self._marks = [
            getattr(reward, "fingerprint", None) if cache else None for _, reward in self.rewards
        ]

    def score(
        self,
        paths: Sequence[str],
        prompts: Sequence[str],
        progress: Callable[[int], None] | None = None,
    ) -> list[Scored]:
        """One result per file, in order. Whatever is wrong with a file is in its result; nothing is
        raised.

        Args:
          progress: called with the number of files that have just been finished.
        """
        finished: list[Scored | None] = [None] * len(paths)

        def finish(group: Sequence[_Work]) -> None:
            for work in group:
                scores = None if work.failed else work.scores
                lines = tuple(
                    " ".join(problem.split()) for problem in work.problems
                )  # a file's name may hold several
                finished[work.index] = Scored(work.path, work.prompt, scores, lines)
            if progress is not None and group:
                progress(len(group))

        jobs = (
            _Work(i, str(path), prompt)
            for i, (path, prompt) in enumerate(zip(paths, prompts, strict=True))
        )
        for group in self._groups(prefetched(self._read, jobs, self.threads), finish):
            self._score_group(group)
            finish(group)
        return finished

    def _read(self, work: _Work) -> _Work:
        """What a host thread does: looks scores up, and decodes where one is missing."""
        try:
            if self.cache and os.path.isfile(work.path):
                work.digest = file_digest(work.path)
            known = [self._known(work, i) for i in range(len(self.rewards))]
            for i, scores in enumerate(known):
                self._take(work, i, scores or {})
            work.asked = tuple(i for i, scores in enumerate(known) if scores is None)
            if work.asked:
                work.video_TxHxWx3 = _wide_enough(work.path, read_mp4(work.path))
        except (BadInput, OSError) as error:
            work.failed = True
            work.problems.append(
                str(error) if isinstance(error, BadInput) else f"{work.path}: {error.strerror}"
            )
        return work

    def _take(self, work: _Work, reward: int, scores: Mapping[str, float]) -> None:
        before = self.rewards[reward][0]
        work.scores |= {before + name: value for name, value in scores.items()}

    def _known(self, work: _Work, reward: int) -> dict[str, float] | None:
        if work.digest is None or self._marks[reward] is None:
            return None
        return self.cache.get(
            work.digest, work.prompt, self._marks[reward], self.rewards[reward][1].names
        )

    def _groups(
        self, read: Iterable[_Work], finish: Callable[[Sequence[_Work]], None]
    ) -> Iterator[list[_Work]]:
        """Works with videos of one shape, as many as go together; the others are finished."""
        waiting: dict[tuple[int, ...], list[_Work]] = {}
        for work in read:
            if work.video_TxHxWx3 is None:
                finish([work])
                continue
            shape = work.video_TxHxWx3.shape
            group = waiting.setdefault(shape, [])
            group.append(work)
            if len(group) == rows_of(shape, self.batch):
                yield waiting.pop(shape)
            while (
                sum(len(group) * math.prod(shape) for shape, group in waiting.items())
                > WAITING_BYTES
            ):
                yield waiting.pop(
                    max(waiting, key=lambda shape: len(waiting[shape]) * math.prod(shape))
                )
        yield from waiting.values()

    def _score_group(self, group: Sequence[_Work]) -> None:
        videos_BxTxHxWx3 = np.stack([work.video_TxHxWx3 for work in group])
        for work in group:
            work.video_TxHxWx3 = None  # the batch is a copy
        for i, (_, reward) in enumerate(self.rewards):
            rows = [row for row, work in enumerate(group) if i in work.asked]
            if not rows:
                continue
            works = [group[row] for row in rows]
            videos = videos_BxTxHxWx3 if len(rows) == len(group) else videos_BxTxHxWx3[rows]
            for work, scores in zip(works, _ask(reward, videos, works), strict=True):
                if scores is None:
                    scores = dict.fromkeys(reward.names, math.nan)
                elif (
                    work.digest
                    and self._marks[i]
                    and set(scores) == set(reward.names)
                    and _lasting(reward, scores)
                ):
                    self.cache.put(work.digest, work.prompt, self._marks[i], scores)
                self._take(work, i, scores)


def _ask(
    reward: Reward, videos_BxTxHxWx3: UInt8[np.ndarray, "B T H W 3"], works: Sequence[_Work]
) -> list[dict[str, float] | None]:
    """The reward's scores of each video, None where it refuses. A batch that it refuses is asked
    about one by one."""
    try:
        scores = reward.score(videos_BxTxHxWx3, [work.prompt for work in works])
    except (BadInput, MemoryError, JaxRuntimeError) as error:
        if len(works) > 1 and not isinstance(error, EndpointDown):
            alone = (
                _ask(reward, videos_BxTxHxWx3[row : row + 1], [work])
                for row, work in enumerate(works)
            )
            return list(itertools.chain.from_iterable(alone))
        if isinstance(error, JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        reason = (
            error if isinstance(error, BadInput) else "not enough memory for a video of this size"
        )
        for work in works:
            work.problems.append(f"{work.path}: no {', '.join(reward.names)} ({reason})")
        return [None] * len(works)
    return [
        {name: float(np.float32(values[row])) for name, values in scores.items()}
        for row in range(len(works))
    ]


def _lasting(reward: Reward, scores: Mapping[str, float]) -> bool:
    """Whether the reward would say the same another time."""
    return not (reward.transient_failures and any(math.isnan(value) for value in scores.values()))


def _wide_enough(
    path: str, video_TxHxWx3: UInt8[np.ndarray, "T H W 3"]
) -> UInt8[np.ndarray, "T H W 3"]:
    _, height, width, _ = video_TxHxWx3.shape
    if max(height, width) > NARROWEST * min(height, width):
        raise BadInput(
            f"{path}: {width} x {height} pixels; a strip more than {NARROWEST} times as long as"
            " wide cannot be scored"
        )
    return video_TxHxWx3


def rows_of(shape: Sequence[int], most: int) -> int:
    """How many videos [T, H, W, 3] go into a batch: `most`, or a half, a quarter, ... of that for
    large ones."""
    while most > 1 and most * math.prod(shape) > WAITING_BYTES:
        most //= 2
    return most


def prefetched(do: Callable[[Any], Any], jobs: Iterable[Any], threads: int) -> Iterator[Any]:
    """`do(job)` of each job, in order, done ahead on `threads` threads; results that nobody has
    taken yet are at most twice as many."""
    ahead: collections.deque[concurrent.futures.Future] = collections.deque()
    pool = concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix="decode")
    try:
        for job in jobs:
            ahead.append(pool.submit(do, job))
            if len(ahead) >= 2 * threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
