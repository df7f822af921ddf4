"""Scores of videos under several conditions, recorded on disk.

A condition is a caption to score the video against, or a corruption of the video or of its caption.
Each video is generated once and scored under all of its conditions.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import UInt8

from pav_jax.candidates.store import ScoredVideoStore, VideoRequest
from pav_jax.records import candidate_key, stable_seed
from pav_jax.rewards.reward import Reward, score_with_times
from pav_jax.rewards.suite import HELD_OUT, RewardSuite, frame_times
from pav_jax.trust.corruptions import VIDEO_CORRUPTIONS, corrupt_video
from pav_jax.video.generator import GeneratedVideo

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
class Sample:
    """The scores of a video under one condition: one line of the segments in `trust/`.

    Attributes:
      key: identifies the generator, video and condition.
      prompt: the prompt of the video.
      seed: the generator's seed of the video.
      kind, severity, caption: as in `Condition`.
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


Scores = tuple[dict[str, float], tuple[str, ...]]  # scores by name, refusals as in `Sample`


class SampleStore(ScoredVideoStore[Condition, Sample]):
    """Generates, scores and records samples, skipping those that are already in its folder.

    Views are conditions. Those of one kind are scored and recorded together, so a killed process
    loses at most one kind of condition of one batch. Rewards are called one by one, because one may
    refuse a caption.
    """

    record_type = Sample

    def key(self, request: VideoRequest[Condition], view: Condition) -> str:
        """Identifies a sample of this generator."""
        source = f"{self.generator.fingerprint} {view.kind} {view.severity}"
        return candidate_key(view.caption, request.text, request.seed, source)

    def view_group(self, view: Condition) -> str:
        """Conditions of one kind are scored together."""
        return view.kind

    def scores_to_report(self, record: Sample) -> Mapping[str, float]:
        """Scores of videos as they are against their own prompts; none of other conditions."""
        return record.scores if record.kind == TRUE_PROMPT else {}

    def score_views(
        self,
        videos: UInt8[np.ndarray, "B T H W 3"],
        rows: Sequence[tuple[VideoRequest[Condition], Condition]],
    ) -> list[Scores]:
        """Scores each video under the condition of its row; all rows have one kind.

        Raises:
          ValueError: a reward refuses a caption other than the empty one.
        """
        inputs = np.stack([_input(video, *row) for video, row in zip(videos, rows, strict=True)])
        times = frame_times(inputs, self.generator.fps)
        captions = [condition.caption for _, condition in rows]
        refined = [request.text for request, _ in rows]
        scores: dict[str, np.ndarray] = {}
        refusals: list[str] = []
        for names, reward in rewards_with_names(self.suite):
            try:
                values = score_with_times(reward, inputs, captions, refined, times)
            except ValueError as error:
                # any caption but the empty one is one that users may write
                if rows[0][1].kind != EMPTY_PROMPT:
                    raise
                refusals += [f"{name} = {error}" for name in names]
                scores |= {name: np.full(len(rows), np.nan) for name in names}
                continue
            scores |= {
                name: values[own_name]
                for name, own_name in zip(names, reward.names, strict=True)
                if own_name in values
            }
        return [
            ({name: float(values[i]) for name, values in scores.items()}, tuple(refusals))
            for i in range(len(rows))
        ]

    def make_record(
        self,
        request: VideoRequest[Condition],
        view: Condition,
        video: GeneratedVideo,
        scores: Scores,
    ) -> Sample:
        """The sample of one condition; the scores of a failed video are meaningless, so NaN."""
        by_name, refusals = scores
        if video.error is not None:
            by_name = dict.fromkeys(by_name, math.nan)
        return Sample(
            key=self.key(request, view),
            prompt=request.text,
            seed=request.seed,
            kind=view.kind,
            severity=view.severity,
            caption=view.caption,
            scores=by_name,
            refusals=refusals,
        )

    def get(self, request: VideoRequest[Condition], kind: str, severity: int = 0) -> Sample:
        """The sample of a video under its condition of this kind and severity."""
        condition = next(c for c in request.views if (c.kind, c.severity) == (kind, severity))
        return self.records[self.key(request, condition)]


def _input(
    video_TxHxWx3: UInt8[np.ndarray, "T H W 3"],
    request: VideoRequest[Condition],
    condition: Condition,
) -> UInt8[np.ndarray, "T H W 3"]:
    """The frames to score: corrupted if the condition corrupts videos."""
    if condition.kind not in VIDEO_CORRUPTIONS:
        return video_TxHxWx3
    seed = stable_seed(request.text, request.seed)
    return corrupt_video(video_TxHxWx3, condition.kind, condition.severity, seed)
