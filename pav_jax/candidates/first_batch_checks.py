"""Checks of a run's first videos, which end it before hours are spent on useless ones."""

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from pav_jax.candidates.scoring import weighted_rewards
from pav_jax.errors import BadInput
from pav_jax.records import Candidate
from pav_jax.rewards.suite import PENALTIES

MIN_COMPARISONS = 2  # equal videos of different texts; one pair may differ in truncated words
MIN_VIDEOS = 8  # scored before a score counts as constant


class PromptSensitivity:
    """Whether the generator reads its prompts: texts with one source (the seed, or the seed and an
    image) must give different videos."""

    def __init__(self):
        self.is_decided = False
        # source -> text -> (prompt, digest of the video)
        self._digests: dict[Hashable, dict[str, tuple[str, bytes]]] = {}
        self._num_equal = 0
        self._num_similar = 0  # equal videos of one prompt's rewrites

    @property
    def is_suspicious(self) -> bool:
        """Whether all rewrites of a prompt gave the same video so far."""
        return not self.is_decided and self._num_similar >= MIN_COMPARISONS

    def add(
        self,
        texts: Sequence[str],
        sources: Sequence[Hashable],
        videos: Any,
        errors: Sequence[str | None],
        prompts: Sequence[str] | None = None,
    ) -> None:
        """Compare B videos [B, T, H, W, 3] with each other and with earlier ones.

        Args:
          prompts: the users' prompts of the texts; None: the texts. Equal videos of one prompt's
            rewrites are a reason to compare prompts (`is_suspicious`), but not proof.

        Raises:
          BadInput: all videos of different texts with the same seed are equal so far.
        """
        for row, (text, source) in enumerate(zip(texts, sources, strict=True)):
            if self.is_decided:
                return
            if errors[row] is None:
                prompt = text if prompts is None else prompts[row]
                self._compare(text, prompt, source, _digest(videos[row]))
        if self._num_equal >= MIN_COMPARISONS:
            raise BadInput(
                f"generator: ignores its prompt ({self._num_equal} times the same video for two"
                " prompts with one seed); check the text encoder of generator.path, or set"
                " budget.check_generator=False",
                source="configuration",
                field="generator",
            )

    def _compare(self, text: str, prompt: str, source: Hashable, digest: bytes) -> None:
        others = self._digests.setdefault(source, {})
        if text in others:
            return
        if any(digest != other for _, other in others.values()):
            self.is_decided = True
            self._digests = {}
        else:
            is_new_prompt = any(prompt != earlier for earlier, _ in others.values())
            self._num_equal += is_new_prompt
            self._num_similar += bool(others) and not is_new_prompt
            others[text] = (prompt, digest)


class ScoreVariation:
    """Whether every weighted score differs among the first videos."""

    def __init__(self):
        self.is_decided = False
        self._rows: list[Mapping[str, float]] = []

    def add(self, records: Sequence[Any], weights: Mapping[str, float]) -> None:
        """Add the records of a batch; those that are not candidates are ignored.

        Raises:
          BadInput: a weighted score is the same, or missing, for all of the first videos.
        """
        if self.is_decided:
            return
        rows = (r.scores for r in records if isinstance(r, Candidate))
        self._rows += [row for row in rows if any(map(np.isfinite, row.values()))]
        if len(self._rows) < MIN_VIDEOS:
            return
        self.is_decided = True
        for name in weighted_rewards(weights):
            values = np.asarray([row.get(name, np.nan) for row in self._rows])
            values = values[np.isfinite(values)]
            if not values.size:
                problem = "is missing"
            elif name in PENALTIES:
                continue
            elif values.size >= MIN_VIDEOS and values.min() == values.max():
                problem = f"is {values[0]:g}"
            else:
                continue
            raise BadInput(
                f"rewards: {name} {problem} for each of the first {len(self._rows)} videos, so it"
                f" cannot rank them; check the reward, set its weight to 0, or set"
                " budget.check_rewards=False",
                source="configuration",
                field=f"rewards.weights.{name}",
            )


def _digest(video: Any) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(video).tobytes()).digest()
