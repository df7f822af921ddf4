"""Prompts of the evaluation with the videos of several systems side by side."""

import base64
import dataclasses
import math
from collections.abc import Sequence

from markupsafe import Markup

from pav_jax.candidates.units import NAMES
from pav_jax.records import Measurement
from pav_jax.rewards.faithfulness import judge
from pav_jax.storage.addresses import AnyPath
from pav_jax.storage.saved_videos import read_saved_video


@dataclasses.dataclass(frozen=True)
class VideoCard:
    """One system's video of one prompt.

    Attributes:
      system: the system that wrote the rewrite.
      refined: the rewrite.
      video: a data: URL; None if the video was not saved.
      overall: score of the video.
      gain: in overall, over the user's own prompt with the same seed; None if unknown.
      scores: by reward.
      units: verdict ("kept", "missing", ...) -> what became of the units of the prompt.
      is_unchanged: the rewrite is the prompt.
    """

    system: str
    refined: str
    video: Markup | None
    overall: float | None
    gain: float | None
    scores: dict[str, float]
    units: dict[str, tuple[str, ...]]
    is_unchanged: bool


@dataclasses.dataclass(frozen=True)
class PromptRow:
    """A prompt with a card per system.

    Attributes:
      prompt: the user's prompt.
      gain: the last booster's gain in overall, averaged over seeds; None if unknown.
      cards: in the order of the systems, with the first seed.
    """

    prompt: str
    gain: float | None
    cards: list[VideoCard]


class Examples:
    """Chooses prompts of one prompt set to show.

    Args:
      measurements: of the set, in its order.
      systems: to show, in this order.
      booster: the system whose gain orders the prompts; None if no booster was evaluated.
      rewards: names of the scores to show.
      workdir: the folder that paths of videos are relative to.
    """

    def __init__(
        self,
        measurements: Sequence[Measurement],
        systems: Sequence[str],
        booster: str | None,
        rewards: Sequence[str],
        workdir: AnyPath,
    ):
        self.systems = systems
        self.rewards = rewards
        self.workdir = workdir
        self._by_prompt: dict[str, dict[str, list[Measurement]]] = {}
        for m in measurements:
            self._by_prompt.setdefault(m.prompt, {}).setdefault(m.system, []).append(m)
        self._gains = {
            prompt: mean_gain(by_system.get(booster or "", []), by_system.get("original", []))
            for prompt, by_system in self._by_prompt.items()
        }

    def evenly_spaced(self, count: int) -> list[PromptRow]:
        """At most `count` prompts at even distances in the set."""
        prompts = list(self._by_prompt)
        if len(prompts) > count:
            prompts = [prompts[i * len(prompts) // count] for i in range(count)]
        return [self._row(prompt) for prompt in prompts]

    def worst(self, count: int) -> list[PromptRow]:
        """The `count` prompts with the lowest gain, in ascending order."""
        gains = {prompt: gain for prompt, gain in self._gains.items() if gain is not None}
        return [self._row(prompt) for prompt in sorted(gains, key=gains.__getitem__)[:count]]

    def _row(self, prompt: str) -> PromptRow:
        by_system = self._by_prompt[prompt]
        cards = [
            self._card(by_system[system][0], by_system.get("original", []))
            for system in self.systems
            if by_system.get(system)
        ]
        return PromptRow(prompt, self._gains[prompt], cards)

    def _card(self, measurement: Measurement, original: Sequence[Measurement]) -> VideoCard:
        is_original = measurement.system == "original"
        return VideoCard(
            system=measurement.system,
            refined=measurement.refined,
            video=data_url(self.workdir, measurement.video),
            overall=measurement.overall,
            gain=None if is_original else mean_gain([measurement], original),
            scores={r: measurement.scores[r] for r in self.rewards if r in measurement.scores},
            units={} if is_original else units_of(measurement),
            is_unchanged=not is_original and measurement.refined == measurement.prompt,
        )


def units_of(measurement: Measurement) -> dict[str, tuple[str, ...]]:
    """What a rewrite keeps, misses, contradicts and adds; without what is empty."""
    judgement = judge(measurement.prompt, measurement.refined)
    units = {name: getattr(judgement, name) for name in NAMES}
    return {name: texts for name, texts in units.items() if texts}


def mean_gain(measurements: Sequence[Measurement], original: Sequence[Measurement]) -> float | None:
    """Mean difference in overall to the original prompt with the same seed; None without any."""
    by_seed = {m.seed: m.overall for m in original}
    differences = [m.overall - by_seed.get(m.seed, math.nan) for m in measurements]
    finite = [d for d in differences if math.isfinite(d)]
    return sum(finite) / len(finite) if finite else None


def data_url(workdir: AnyPath, video: str | None) -> Markup | None:
    """A saved video as a data: URL; None if there is none.

    Raises:
      BadInput: the path does not lead to a file of a bounded size in the work directory.
    """
    data = read_saved_video(workdir, video) if video else None
    if data is None:
        return None
    return Markup("data:video/mp4;base64," + base64.b64encode(data).decode())
