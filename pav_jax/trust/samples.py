"""Videos in, scored samples on disk: each video is made once and scored in all the ways that were
asked for."""

import dataclasses
import math
import os
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jaxtyping import UInt8

from pav_jax.errors import BadInput
from pav_jax.evaluate.measure import chunks
from pav_jax.parallel import processes
from pav_jax.records import candidate_key, stable_seed
from pav_jax.rewards.suite import HELD_OUT, Reward
from pav_jax.storage.records import SegmentWriter, read_segments
from pav_jax.trust.corruptions import VIDEO_CORRUPTIONS, corrupt_video

TRUE, PERMUTED, EMPTY = "true", "permuted", "empty"  # kinds of a view that are no damage


@dataclasses.dataclass(frozen=True)
class View:
    """One way to look at a video: damaged or not, and against which caption."""

    kind: str  # TRUE, PERMUTED, EMPTY, or a kind of damage
    severity: int
    caption: str


@dataclasses.dataclass(frozen=True)
class Video:
    """The video of `prompt` with the generator's `seed`, and the views of it that are to be
    scored."""

    prompt: str
    seed: int
    views: tuple[View, ...]


@dataclasses.dataclass(frozen=True)
class Sample:
    """A scored view: one line of the segments in `trust/`."""

    key: str
    prompt: str  # what the video was made from
    seed: int
    kind: str
    severity: int
    caption: str  # what it was scored against
    scores: dict[str, float]  # NaN where there is none
    refused: tuple[str, ...]  # "NAME = what its reward said instead of scoring"


def judges_of(suite) -> list[tuple[tuple[str, ...], Reward]]:
    """Every reward with the names under which the suite gives its scores: held-out ones have theirs
    marked."""
    return [(reward.names, reward) for reward in suite.rewards] + [
        (tuple(HELD_OUT + name for name in judge.names), judge) for judge in suite.judges
    ]


class Samples:
    """Scored views, kept in the segments of `folder`; a kill loses at most one kind of view of one
    batch.

    Args:
      generator: as for `evaluate.measure.Measurements`.
      suite: see `rewards.suite.RewardSuite`; its rewards are asked one by one, as one may refuse a
        caption.
      batch: videos in one call of the generator or a reward, always that many: the last batch is
        filled up.
    """

    def __init__(self, generator, suite, folder: str | os.PathLike, batch: int):
        if batch < 1:
            raise BadInput(f"generator.batch={batch}: must be at least 1")
        self.generator, self.suite, self.batch = generator, suite, batch
        self._writer = SegmentWriter(folder, jax.process_index())
        self._read()

    def _read(self) -> None:
        self._known = {s.key: s for s in read_segments(self._writer.folder, Sample)}

    def key(self, video: Video, view: View) -> str:
        made_by = f"{self.generator.fingerprint} {view.kind} {view.severity}"
        return candidate_key(view.caption, video.prompt, video.seed, made_by)

    def of(self, video: Video, kind: str, severity: int = 0) -> Sample:
        view = next(v for v in video.views if (v.kind, v.severity) == (kind, severity))
        return self._known[self.key(video, view)]

    def measure(
        self, videos: Sequence[Video], on_views: Callable[[int], None] | None = None
    ) -> None:
        """Scores what is missing; of many processes each takes its share of the batches.

        Args:
          on_views: called with the number of views that were settled since.
        """
        for batch in processes.shard_for_process(chunks(videos, self.batch)):
            missing = [
                (row, view)
                for row, video in enumerate(batch)
                for view in video.views
                if self.key(video, view) not in self._known
            ]
            if on_views:
                on_views(sum(len(video.views) for video in batch) - len(missing))
            if missing:
                self._make(batch, missing, on_views)
        processes.call_after_barrier("trust", self._read)

    def _make(
        self,
        batch: Sequence[Video],
        missing: Sequence[tuple[int, View]],
        on_views: Callable[[int], None] | None,
    ) -> None:
        padded = list(batch) + [batch[-1]] * (self.batch - len(batch))
        made = self.generator.start([v.prompt for v in padded], [v.seed for v in padded])()
        for kind in dict.fromkeys(view.kind for _, view in missing):
            same = [(row, view) for row, view in missing if view.kind == kind]
            records = [
                record
                for part in chunks(same, self.batch)
                for record in self._score(batch, made.videos, part)
            ]
            # what came out of NaN pixels is no score, however finite it looks
            records = [
                (
                    record
                    if made.errors[row] is None
                    else dataclasses.replace(record, scores=dict.fromkeys(record.scores, math.nan))
                )
                for (row, _), record in zip(same, records, strict=True)
            ]
            self._writer.write(records)
            self._known |= {record.key: record for record in records}
            if on_views:
                on_views(len(records))

    def _score(
        self,
        batch: Sequence[Video],
        videos: UInt8[np.ndarray, "B T H W 3"],
        part: Sequence[tuple[int, View]],
    ) -> list[Sample]:
        rows = list(part) + list(part[-1:]) * (self.batch - len(part))
        seen = np.stack([self._seen(videos[i], batch[i], view) for i, view in rows])
        captions, refined = [view.caption for _, view in rows], [batch[i].prompt for i, _ in rows]
        scores: dict[str, np.ndarray] = {}
        refused: list[str] = []
        for names, reward in judges_of(self.suite):
            try:
                found = reward.score(seen, captions, refined)
                scores |= {
                    shown: found[name]
                    for shown, name in zip(names, reward.names, strict=True)
                    if name in found
                }
            except (BadInput, ValueError) as error:
                if part[0][1].kind != EMPTY:  # any other caption is one that people may write
                    raise
                refused += [f"{name} = {error}" for name in names]
                scores |= {name: np.full(len(rows), np.nan) for name in names}
        return [
            Sample(
                self.key(batch[i], view),
                batch[i].prompt,
                batch[i].seed,
                view.kind,
                view.severity,
                view.caption,
                {name: float(values[row]) for name, values in scores.items()},
                tuple(refused),
            )
            for row, (i, view) in enumerate(part)
        ]

    @staticmethod
    def _seen(
        video_TxHxWx3: UInt8[np.ndarray, "T H W 3"], video: Video, view: View
    ) -> UInt8[np.ndarray, "T H W 3"]:
        if view.kind not in VIDEO_CORRUPTIONS:
            return video_TxHxWx3
        return corrupt_video(
            video_TxHxWx3, view.kind, view.severity, stable_seed(video.prompt, video.seed)
        )
