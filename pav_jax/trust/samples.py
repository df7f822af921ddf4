"""Scores of videos under several conditions, recorded on disk.

A condition is a caption to score the video against, or a corruption of the video or of its caption.
Each video is generated once and scored under all of its conditions.
"""

import dataclasses
import math
import os
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jaxtyping import UInt8

from pav_jax.candidates.store import batched
from pav_jax.errors import BadInput
from pav_jax.parallel import processes
from pav_jax.records import candidate_key, stable_seed
from pav_jax.rewards.reward import Reward
from pav_jax.rewards.suite import HELD_OUT, RewardSuite
from pav_jax.storage.records import SegmentWriter, read_segments
from pav_jax.trust.corruptions import VIDEO_CORRUPTIONS, corrupt_video
from pav_jax.video.generator import Generator

# kinds of conditions that are not corruptions
TRUE_PROMPT = "true"
PERMUTED_PROMPT = "permuted"
EMPTY_PROMPT = "empty"


@dataclasses.dataclass(frozen=True)
class Condition:
    """One way to score a video.

    Attributes:
      kind: TRUE_PROMPT, PERMUTED_PROMPT, EMPTY_PROMPT or a corruption type.
      severity: of the corruption, 0 without one.
      caption: to score the video against.
    """

    kind: str
    severity: int
    caption: str


@dataclasses.dataclass(frozen=True)
class PlannedVideo:
    """The video of `prompt` with the generator's `seed`, and the conditions to score it under."""

    prompt: str
    seed: int
    conditions: tuple[Condition, ...]


@dataclasses.dataclass(frozen=True)
class Sample:
    """The scores of a video under one condition: one line of the segments in `trust/`.

    Attributes:
      key: identifies the generator, video and condition.
      prompt: that the video was generated from.
      seed: that the video was generated with.
      kind, severity, caption: of the condition.
      scores: NaN where a reward has no score.
      refusals: "NAME = error message" for each score whose reward refused the caption.
    """

    key: str
    prompt: str
    seed: int
    kind: str
    severity: int
    caption: str
    scores: dict[str, float]
    refusals: tuple[str, ...]


def rewards_with_names(suite: RewardSuite) -> list[tuple[tuple[str, ...], Reward]]:
    """Every reward of a suite with the names of its scores; held-out ones have their prefix."""
    rewards = [(reward.names, reward) for reward in suite.rewards]
    held_out = [(tuple(HELD_OUT + name for name in r.names), r) for r in suite.held_out_rewards]
    return rewards + held_out


class SampleStore:
    """Generates, scores and records samples, skipping those that are already in `folder`.

    If the process is killed, at most one kind of condition of one batch is lost.

    Args:
      generator: of the videos.
      suite: a `rewards.suite.RewardSuite`. Its rewards are called one by one, because one may
        refuse a caption.
      folder: of the segments.
      batch_size: videos per call of the generator or a reward; the last batch is padded.
    """

    def __init__(
        self,
        generator: Generator,
        suite: RewardSuite,
        folder: str | os.PathLike,
        batch_size: int,
    ):
        if batch_size < 1:
            raise BadInput(
                f"generator.batch_size={batch_size}: must be at least 1",
                field="generator.batch_size",
            )
        self.generator = generator
        self.suite = suite
        self.batch_size = batch_size
        self._writer = SegmentWriter(folder, jax.process_index())
        self._samples: dict[str, Sample] = {}
        self._read()

    def _read(self) -> None:
        self._samples = {
            sample.key: sample for sample in read_segments(self._writer.folder, Sample)
        }

    def key(self, video: PlannedVideo, condition: Condition) -> str:
        """Identifies a sample of this generator."""
        source = f"{self.generator.fingerprint} {condition.kind} {condition.severity}"
        return candidate_key(condition.caption, video.prompt, video.seed, source)

    def get(self, video: PlannedVideo, kind: str, severity: int = 0) -> Sample:
        """The sample of a video under its condition of this kind and severity."""
        condition = next(c for c in video.conditions if (c.kind, c.severity) == (kind, severity))
        return self._samples[self.key(video, condition)]

    def measure(
        self,
        videos: Sequence[PlannedVideo],
        on_samples: Callable[[int], None] | None = None,
    ) -> None:
        """Scores the samples that are missing. Processes share the batches.

        Args:
          videos: with the conditions to score them under.
          on_samples: called with the number of samples finished since the last call.
        """
        for batch in processes.shard_for_process(list(batched(videos, self.batch_size))):
            missing = [
                (row, condition)
                for row, video in enumerate(batch)
                for condition in video.conditions
                if self.key(video, condition) not in self._samples
            ]
            if on_samples:
                on_samples(sum(len(video.conditions) for video in batch) - len(missing))
            if missing:
                self._make(batch, missing, on_samples)
        processes.call_after_barrier("trust", self._read)

    def _make(
        self,
        batch: Sequence[PlannedVideo],
        missing: Sequence[tuple[int, Condition]],
        on_samples: Callable[[int], None] | None,
    ) -> None:
        """Generates a batch and records its missing samples, given as (row, condition)."""
        padded = list(batch) + [batch[-1]] * (self.batch_size - len(batch))
        wait = self.generator.start([v.prompt for v in padded], [v.seed for v in padded])
        generated = wait()
        for kind in dict.fromkeys(condition.kind for _, condition in missing):
            of_kind = [(row, condition) for row, condition in missing if condition.kind == kind]
            samples = [
                sample
                for part in batched(of_kind, self.batch_size)
                for sample in self._score(batch, generated.videos, part)
            ]
            # the score of a failed video is meaningless even if it is finite
            samples = [
                sample if generated.errors[row] is None else _without_scores(sample)
                for (row, _), sample in zip(of_kind, samples, strict=True)
            ]
            self._writer.write(samples)
            self._samples |= {sample.key: sample for sample in samples}
            if on_samples:
                on_samples(len(samples))

    def _score(
        self,
        batch: Sequence[PlannedVideo],
        videos: UInt8[np.ndarray, "B T H W 3"],
        part: Sequence[tuple[int, Condition]],
    ) -> list[Sample]:
        """Scores at most `batch_size` rows of the batch, each under one condition."""
        padded = list(part) + list(part[-1:]) * (self.batch_size - len(part))
        inputs = np.stack([_input(videos[row], batch[row], c) for row, c in padded])
        captions = [condition.caption for _, condition in padded]
        refined = [batch[row].prompt for row, _ in padded]
        scores: dict[str, np.ndarray] = {}
        refusals: list[str] = []
        for names, reward in rewards_with_names(self.suite):
            try:
                values = reward.score(inputs, captions, refined)
            except ValueError as error:
                # any caption but the empty one is one that users may write
                if part[0][1].kind != EMPTY_PROMPT:
                    raise
                refusals += [f"{name} = {error}" for name in names]
                scores |= {name: np.full(len(padded), np.nan) for name in names}
                continue
            scores |= {
                name: values[own_name]
                for name, own_name in zip(names, reward.names, strict=True)
                if own_name in values
            }
        return [
            Sample(
                key=self.key(batch[row], condition),
                prompt=batch[row].prompt,
                seed=batch[row].seed,
                kind=condition.kind,
                severity=condition.severity,
                caption=condition.caption,
                scores={name: float(values[i]) for name, values in scores.items()},
                refusals=tuple(refusals),
            )
            for i, (row, condition) in enumerate(part)
        ]


def _input(
    video_TxHxWx3: UInt8[np.ndarray, "T H W 3"], video: PlannedVideo, condition: Condition
) -> UInt8[np.ndarray, "T H W 3"]:
    """The frames to score: corrupted if the condition corrupts videos."""
    if condition.kind not in VIDEO_CORRUPTIONS:
        return video_TxHxWx3
    seed = stable_seed(video.prompt, video.seed)
    return corrupt_video(video_TxHxWx3, condition.kind, condition.severity, seed)


def _without_scores(sample: Sample) -> Sample:
    return dataclasses.replace(sample, scores=dict.fromkeys(sample.scores, math.nan))
