"""The candidate pool of evolution, of a preference round, or of a GRPO step."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from pav_jax.candidates.candidate_store import CandidateStore, PendingCandidate
from pav_jax.candidates.options import KEEP_VIDEOS
from pav_jax.candidates.scoring import overall_scores
from pav_jax.candidates.store import VideoRequest
from pav_jax.errors import BadInput
from pav_jax.records import Candidate, stable_seed
from pav_jax.storage.addresses import as_path
from pav_jax.video.files import write_mp4
from pav_jax.video.generator import GeneratedVideo
from pav_jax.video.images import PromptImage


class CandidatePool(CandidateStore):
    """A store in which all candidates of a prompt share one generator seed.

    The videos of a prompt therefore differ only in their texts.

    Args:
      generator, suite, batch_size: see `ScoredVideoStore`.
      folder: folder of the record segments.
      workdir: base of the recorded video paths.
      seed: the configuration's seed; each prompt's generator seed is derived from it.
      weights: reward name -> weight, for `keep_videos="best"`; None takes the suite's.
      keep_videos: which videos are saved: "none", "all", or "best": those that beat every earlier
        round of their prompt.
      images: prompt -> the image that its videos are made from, or None; prompts that are missing
        have none.

    Raises:
      BadInput: the folder holds candidates of a different generator, seed or image.
    """

    def __init__(
        self,
        generator: Any,
        suite: Any,
        folder: Any,
        workdir: Any,
        *,
        seed: int,
        batch_size: int,
        weights: Mapping[str, float] | None = None,
        keep_videos: str = "none",
        images: Mapping[str, PromptImage | None] | None = None,
    ):
        if keep_videos not in KEEP_VIDEOS:
            raise BadInput(
                f"keep_videos={keep_videos!r}: choose one of {', '.join(KEEP_VIDEOS)}",
                source="configuration",
                field="keep_videos",
            )
        super().__init__(generator, suite, folder, batch_size=batch_size)
        self.workdir = as_path(workdir)
        self.seed = seed
        self.images = dict(images or {})
        self.weights = dict(suite.weights if weights is None else weights)
        self.keep_videos = keep_videos
        self._best_overall: dict[str, float] = {}  # prompt -> best of its earlier rounds
        for candidate in self.records.values():
            seed = self.video_seed(candidate.prompt)
            key = self.video_key(candidate.prompt, candidate.refined, seed, candidate.image)
            self._check_image(candidate)
            if (candidate.seed, candidate.key) != (seed, key):
                raise BadInput(
                    f"{folder}: holds candidates of a different generator or seed; choose a"
                    " new --workdir",
                    source=self.folder,
                )

    def _check_image(self, candidate: Candidate) -> None:
        if candidate.prompt not in self.images:
            return
        image = self.images[candidate.prompt]
        if candidate.image != (None if image is None else image.digest):
            raise BadInput(
                f"{self.folder}: holds videos of {candidate.prompt!r} that were made from"
                f" {'another' if candidate.image else 'no'} image; restore the prompt file and its"
                " images, or choose a new --workdir",
                source=self.folder,
                field="image",
            )

    @property
    def candidates(self) -> list[Candidate]:
        """All recorded candidates, sorted by prompt, round and index."""
        return sorted(self.records.values(), key=lambda c: (c.prompt, c.round, c.index, c.key))

    def video_seed(self, prompt: str) -> int:
        """Return the generator's seed for all videos of a prompt."""
        return stable_seed(self.seed, "video", prompt)

    def request(self, candidate: PendingCandidate) -> VideoRequest[PendingCandidate]:
        """Return the request for a candidate's video."""
        prompt = candidate.prompt
        return VideoRequest(
            candidate.refined, self.video_seed(prompt), (candidate,), self.images.get(prompt)
        )

    def score_round(self, pending: Iterable[PendingCandidate], round: int) -> Iterator[int]:
        """Make and score one round's candidates; yield how many finished since the last yield.

        Args:
          pending: read lazily. Their order must not depend on the records.
        """
        self._best_overall = self._best_before(round)
        yield from self.score(self.request(candidate) for candidate in self._distinct(pending))

    def _distinct(self, pending: Iterable[PendingCandidate]) -> Iterator[PendingCandidate]:
        """Skip duplicates and texts of earlier rounds; a restart skips the same ones."""
        seen: set[str] = set()
        for candidate in pending:
            key = self.key(self.request(candidate), candidate)
            recorded = self.records.get(key)
            position = (candidate.round, candidate.index)
            if recorded is not None and (recorded.round, recorded.index) != position:
                continue
            if key not in seen:
                seen.add(key)
                yield candidate

    def _best_before(self, round: int) -> dict[str, float]:
        earlier = [c for c in self.records.values() if c.round < round]
        return best_overall(earlier, overall_scores(earlier, self.weights))

    def save_video(self, candidate: Candidate, video: GeneratedVideo) -> str | None:
        """Save a candidate's video if `keep_videos` asks for it; returns its path."""
        if candidate.error is not None or self.keep_videos == "none":
            return None
        if self.keep_videos == "best":
            value = overall_scores([candidate], self.weights)[0]
            if not value > self._best_overall.get(candidate.prompt, -np.inf):
                return None
        path = f"videos/{candidate.key}.mp4"
        write_mp4(self.workdir / path, video.frames, self.generator.fps, audio=video.audio)
        return path


def best_overall(candidates: Iterable[Candidate], values: Iterable[float]) -> dict[str, float]:
    """Return prompt -> the highest overall of its candidates, minus infinity if none has one."""
    best: dict[str, float] = {}
    for candidate, value in zip(candidates, values, strict=True):
        best[candidate.prompt] = max(best.get(candidate.prompt, -np.inf), value)
    return best
