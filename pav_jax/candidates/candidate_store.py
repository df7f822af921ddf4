"""A store of candidates: videos of rewrites, scored against the users' prompts."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import UInt8

from pav_jax.candidates.store import ScoredVideoStore, VideoRequest
from pav_jax.records import Candidate
from pav_jax.rewards.suite import HELD_OUT
from pav_jax.video.generator import GeneratedVideo


@dataclasses.dataclass(frozen=True)
class PendingCandidate:
    """A candidate before its video exists. Fields as in `Candidate`."""

    prompt: str
    refined: str
    round: int
    index: int
    parents: tuple[str, ...]
    proposer: str


class CandidateStore(ScoredVideoStore[PendingCandidate, Candidate]):
    """Scores the video of a rewrite against each prompt that needs it."""

    record_type = Candidate

    def key(self, request: VideoRequest[PendingCandidate], view: PendingCandidate) -> str:
        """The key of the video that a candidate needs."""
        return self.video_key(view.prompt, request.text, request.seed, request.image_digest)

    def scores_to_report(self, record: Candidate) -> dict[str, float]:
        """All scores of a candidate."""
        return record.scores

    def score_views(
        self,
        videos: UInt8[np.ndarray, "B T H W 3"],
        rows: Sequence[tuple[VideoRequest[PendingCandidate], PendingCandidate]],
    ) -> list[dict[str, float]]:
        """The scores of videos [B, T, H, W, 3], one dictionary per row."""
        scores = self.suite.score(
            videos,
            [view.prompt for _, view in rows],
            refined=[request.text for request, _ in rows],
            fps=self.generator.fps,
        )
        return [
            {name: float(values[row]) for name, values in scores.items()}
            for row in range(len(rows))
        ]

    def make_record(
        self,
        request: VideoRequest[PendingCandidate],
        view: PendingCandidate,
        video: GeneratedVideo,
        scores: dict[str, float],
    ) -> Candidate:
        """The record of a candidate, with its scores or its error."""
        error = video.error
        if error is None:
            error = missing_scores(scores)
        else:  # scores of unusable frames are meaningless, even if finite
            scores = dict.fromkeys(scores, math.nan)
        candidate = Candidate(
            key=self.key(request, view),
            prompt=view.prompt,
            refined=request.text,
            round=view.round,
            index=view.index,
            parents=view.parents,
            proposer=view.proposer,
            seed=request.seed,
            scores=scores,
            error=error,
            image=request.image_digest,
        )
        if not self.makes_videos:
            return candidate
        return dataclasses.replace(candidate, video=self.save_video(candidate, video))

    def save_video(self, candidate: Candidate, video: GeneratedVideo) -> str | None:
        """Write the video file; return its path in the work directory, None if there is none."""
        return None


def missing_scores(scores: Mapping[str, float]) -> str | None:
    """Return the error of a candidate that lacks scores; held-out scores may be missing."""
    missing = sorted(
        name
        for name, value in scores.items()
        if not np.isfinite(value) and not name.startswith(HELD_OUT)
    )
    return f"no score: {', '.join(missing)}" if missing else None
