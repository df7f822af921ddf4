"""From rewrites to scored candidates on disk: the one place where videos are made for evolution and
preference."""

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import jax
import numpy as np
from etils import epath

from pav_jax.candidates.scoring import overall_scores
from pav_jax.errors import BadInput
from pav_jax.parallel import processes
from pav_jax.records import Candidate, candidate_key, stable_seed
from pav_jax.rewards.suite import HELD_OUT
from pav_jax.storage.records import SegmentWriter, read_segments
from pav_jax.video.files import write_mp4
from pav_jax.video.generator import Generator, VideoBatch

KEEP = ("none", "best", "all")


@dataclasses.dataclass(frozen=True)
class Draft:
    """A candidate before its video exists. Fields as in `Candidate`."""

    prompt: str
    refined: str
    round: int
    index: int
    parents: tuple[str, ...]
    proposer: str


@dataclasses.dataclass(frozen=True)
class _Started:
    """A batch whose videos are being made.

    Attributes:
      drafts: how many it settles.
      missing: places of those that are recorded; the other rows fill the batch.
      videos: waits for them.
      at: when it was started, on the clock that never goes back.
    """

    drafts: int
    missing: list[int]
    rows: list[Draft]
    videos: Callable[[], VideoBatch]
    at: float


class Pool:
    """Makes, scores and records videos, always `batch` at a time, skipping what is already in
    `folder`.

    A draft keeps its place in its batch whatever was finished before, so a restart runs the same
    program on the same rows. All candidates of a prompt share one generator seed: they differ by
    their words alone.

    Args:
      generator: makes the videos; the next batch is started before this one is scored.
      suite: see `rewards.suite.RewardSuite`.
      folder: where the segments go; `workdir` is what recorded video paths are relative to.
      weights: of `overall` for "best" videos; None takes the suite's own.
      keep_videos: "none", "all", or "best": those that beat every earlier round of their prompt.
    """

    def __init__(
        self,
        generator: Generator,
        suite,
        folder,
        workdir,
        *,
        seed: int,
        batch: int,
        weights: Mapping[str, float] | None = None,
        keep_videos: str = "none",
    ):
        if keep_videos not in KEEP:
            raise BadInput(f"keep_videos={keep_videos!r}: choose one of {', '.join(KEEP)}")
        if batch < 1:
            raise BadInput(f"generator.batch_size={batch}: must be at least 1")
        self.generator, self.suite = generator, suite
        self.weights = dict(weights or suite.weights)
        self.folder, self.workdir = epath.Path(folder), epath.Path(workdir)
        self.seed, self.batch, self.keep_videos = seed, batch, keep_videos
        self._writer = SegmentWriter(folder, jax.process_index())
        self._settled = 0.0  # when the last batch was
        self.made, self.seconds = 0, 0.0  # by this process: for videos/s
        self._read()
        for c in self._all.values():
            if c.key != self._key(c.prompt, c.refined) or c.seed != self.video_seed(c.prompt):
                raise BadInput(
                    f"{folder}: holds candidates of another generator or seed; choose a new"
                    " --workdir"
                )

    def _read(self) -> None:
        self._all = {c.key: c for c in read_segments(self.folder, Candidate)}

    def gather(self, name: str) -> None:
        """Waits until every process is done with its part of the work `name`, and takes in what the
        others made."""
        processes.call_after_barrier(name, self._read)

    @property
    def candidates(self) -> list[Candidate]:
        """Everything finished so far, in the order of the records."""
        return sorted(self._all.values(), key=lambda c: (c.prompt, c.round, c.index, c.key))

    def video_seed(self, prompt: str) -> int:
        return stable_seed(self.seed, "video", prompt)

    def _key(self, prompt: str, refined: str) -> str:
        return candidate_key(prompt, refined, self.video_seed(prompt), self.generator.fingerprint)

    def __contains__(self, draft: Draft) -> bool:
        return self._key(draft.prompt, draft.refined) in self._all

    def score(self, drafts: Iterable[Draft], round: int) -> Iterator[int]:
        """Makes what is missing of one round's `drafts`; yields the number of drafts that each
        batch settled.

        `drafts` is read lazily, a batch at a time, and its order must not depend on what is
        finished.
        """
        best = self._best_before(round)
        waiting: _Started | None = None
        for batch in _batches(self._fresh(drafts), self.batch):
            started = self._start(batch)
            # scored while the next one's videos are made
            if waiting is not None:
                yield self._settle(waiting, best)
            waiting = started
        if waiting is not None:
            yield self._settle(waiting, best)

    def _fresh(self, drafts: Iterable[Draft]) -> Iterator[Draft]:
        """Leaves out what an earlier round has made and repeats: a rule that a restart cannot
        change."""
        seen: set[str] = set()
        for draft in drafts:
            key = self._key(draft.prompt, draft.refined)
            earlier = key in self._all and (self._all[key].round, self._all[key].index) != (
                draft.round,
                draft.index,
            )
            if not earlier and key not in seen:
                seen.add(key)
                yield draft

    def _settle(self, started: "_Started", best: Mapping[str, float]) -> int:
        if started.missing:
            begun = max(started.at, self._settled)
            records = self._make(started, best)
            self._writer.write(records)
            self._all |= {c.key: c for c in records}
            self._settled = time.monotonic()
            self.made, self.seconds = self.made + len(records), self.seconds + self._settled - begun
        return started.drafts

    def _start(self, batch: Sequence[Draft]) -> "_Started":
        """Starts the generator at the fixed batch size, missing rows in their own places; does not
        wait for it."""
        at, missing = time.monotonic(), [i for i, d in enumerate(batch) if d not in self]
        if not missing:
            empty = VideoBatch(np.zeros((0, 1, 1, 1, 3), np.uint8), [])
            return _Started(len(batch), missing, [], lambda: empty, at)
        rows = [batch[i] if i in missing else batch[missing[0]] for i in range(len(batch))]
        rows += [batch[missing[0]]] * (self.batch - len(rows))
        videos = self.generator.start(
            prompts=[d.refined for d in rows], seed=[self.video_seed(d.prompt) for d in rows]
        )
        return _Started(len(batch), missing, rows, videos, at)

    def _make(self, started: "_Started", best: Mapping[str, float]) -> list[Candidate]:
        """Waits for the videos and scores them."""
        rows, missing = started.rows, started.missing
        made = started.videos()
        scores = self.suite.score(
            made.videos, [d.prompt for d in rows], refined=[d.refined for d in rows]
        )
        records = []
        for i in missing:
            draft, key = rows[i], self._key(rows[i].prompt, rows[i].refined)
            row = {name: float(values[i]) for name, values in scores.items()}
            absent = sorted(
                n
                for n, value in row.items()
                if not np.isfinite(value) and not n.startswith(HELD_OUT)
            )
            error = made.errors[i]
            if error is None and absent:
                error = f"no score: {', '.join(absent)}"
            record = Candidate(
                key,
                draft.prompt,
                draft.refined,
                draft.round,
                draft.index,
                draft.parents,
                draft.proposer,
                self.video_seed(draft.prompt),
                row,
                None,
                error,
            )
            if self._keeps(record, best):
                path = f"videos/{key}.mp4"
                write_mp4(self.workdir / path, made.videos[i], self.generator.fps)
                record = dataclasses.replace(record, video=path)
            records.append(record)
        return records

    def _best_before(self, round: int) -> dict[str, float]:
        """Prompt -> best overall of its earlier rounds."""
        earlier = [c for c in self._all.values() if c.round < round]
        best: dict[str, float] = {}
        for candidate, value in zip(earlier, overall_scores(earlier, self.weights), strict=True):
            best[candidate.prompt] = max(best.get(candidate.prompt, -np.inf), value)
        return best

    def _keeps(self, record: Candidate, best: Mapping[str, float]) -> bool:
        if self.keep_videos != "best" or record.error:
            return self.keep_videos == "all" and not record.error
        return overall_scores([record], self.weights)[0] > best.get(record.prompt, -np.inf)


def _batches(items: Iterable, size: int) -> Iterator[list]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch
