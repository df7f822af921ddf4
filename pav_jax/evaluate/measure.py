"""Texts in, scored videos out: each distinct (text, seed) is generated once, scored for every
prompt that needs it."""

import dataclasses
import math
import os
from collections.abc import Callable, Iterable, Sequence

import jax
import numpy as np
from etils import epath

from pav_jax.parallel import processes
from pav_jax.records import Candidate, candidate_key
from pav_jax.rewards.suite import HELD_OUT
from pav_jax.storage.records import SegmentWriter, read_segments
from pav_jax.video.files import write_mp4
from pav_jax.video.generator import Generator


@dataclasses.dataclass(frozen=True)
class Cell:
    """One measurement to make: the video of `refined` with `seed`, scored against `prompt`."""

    prompt: str
    refined: str
    seed: int
    system: str  # who asked first; not part of the key


class Measurements:
    """Scored videos, kept in the segments of `folder`; a kill loses at most the batch that was
    being made.

    Args:
      generator: makes the videos.
      suite: see `rewards.suite.RewardSuite`.
      batch: videos in one call, always that many: the last batch is filled up.
      workdir: videos go to `videos/` in it, where `save_videos`.
    """

    def __init__(
        self,
        generator: Generator,
        suite,
        folder: str | os.PathLike,
        workdir: str | os.PathLike,
        batch: int,
        save_videos: bool = True,
    ):
        self.generator, self.suite, self.batch, self.save_videos = (
            generator,
            suite,
            batch,
            save_videos,
        )
        self.workdir = epath.Path(workdir)
        self._writer = SegmentWriter(folder, jax.process_index())
        self._known: dict[str, Candidate] = {}
        self._read()

    def _read(self) -> None:
        self._known = {c.key: c for c in read_segments(self._writer.folder, Candidate)}

    def key(self, cell: Cell) -> str:
        return candidate_key(cell.prompt, cell.refined, cell.seed, self.generator.fingerprint)

    def __getitem__(self, cell: Cell) -> Candidate:
        return self._known[self.key(cell)]

    def measure(self, cells: Iterable[Cell], on_batch: Callable[[int], None] | None = None) -> None:
        """Makes what is missing. Batches are cut from the whole list, so a restart runs the same
        rows together; of many processes each makes its share of them.

        Args:
          on_batch: called with the number of cells that each batch settled.
        """
        for batch in processes.shard_for_process(chunks(self._videos(cells), self.batch)):
            rows = [cell for group in batch for cell in group]
            if any(self.key(cell) not in self._known for cell in rows):
                records = self._make(batch)
                self._writer.write(records)
                self._known |= {c.key: c for c in records}
            if on_batch:
                on_batch(len(rows))
        processes.call_after_barrier("measurements", self._read)

    def _videos(self, cells: Iterable[Cell]) -> list[list[Cell]]:
        """Groups the cells by the video they need, in the order in which each video is first asked
        for."""
        groups: dict[tuple[str, int], dict[str, Cell]] = {}
        for cell in cells:
            groups.setdefault((cell.refined, cell.seed), {}).setdefault(cell.prompt, cell)
        return [list(group.values()) for group in groups.values()]

    def count(self, cells: Iterable[Cell]) -> int:
        """How many cells `measure` will report."""
        return sum(len(group) for group in self._videos(cells))

    def _make(self, batch: Sequence[list[Cell]]) -> list[Candidate]:
        padded = list(batch) + [batch[-1]] * (self.batch - len(batch))
        made = self.generator.start([g[0].refined for g in padded], [g[0].seed for g in padded])()
        rows = [(i, cell) for i, group in enumerate(batch) for cell in group]
        records = []
        for part in chunks(rows, self.batch):
            full = part + part[-1:] * (self.batch - len(part))
            scores = self.suite.score(
                made.videos[[i for i, _ in full]],
                [cell.prompt for _, cell in full],
                refined=[cell.refined for _, cell in full],
            )
            for row, (i, cell) in enumerate(part):
                if self.key(cell) not in self._known:
                    # what came out of NaN pixels is no score, however finite it looks
                    usable = made.errors[i] is None
                    row_scores = {
                        k: float(v[row]) if usable else math.nan for k, v in scores.items()
                    }
                    records.append(self._record(cell, made.videos[i], row_scores, made.errors[i]))
        return records

    def _record(
        self, cell: Cell, video_TxHxWx3: np.ndarray, scores: dict[str, float], broken: str | None
    ) -> Candidate:
        absent = sorted(
            n
            for n, value in scores.items()
            if not np.isfinite(value) and not n.startswith(HELD_OUT)
        )
        error = None if not absent else broken or f"no score: {', '.join(absent)}"
        path = None
        if self.save_videos:
            # named by what made it, without the prompt it is scored against: shared by all that
            # score it
            path = f"videos/{candidate_key('', cell.refined, cell.seed, self.generator.fingerprint)}.mp4"
            if not (self.workdir / path).exists():
                write_mp4(self.workdir / path, video_TxHxWx3, self.generator.fps)
        return Candidate(
            self.key(cell),
            cell.prompt,
            cell.refined,
            round=0,
            index=0,
            parents=(),
            proposer=cell.system,
            seed=cell.seed,
            scores=scores,
            video=path,
            error=error,
        )


def chunks(items: Sequence, size: int) -> list[list]:
    """`items` in lists of `size`; the last may be shorter."""
    return [list(items[i : i + size]) for i in range(0, len(items), size)]
