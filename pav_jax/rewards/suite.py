"""Rewards behind one protocol, and the suite that names, weighs and bounds them."""

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float, UInt8

from pav_jax.errors import BadInput

# entry kind -> where its class is; a class is imported when a configuration asks for it
KINDS = {
    "aesthetic": "pav_jax.rewards.aesthetic:Aesthetic",
    "clip_alignment": "pav_jax.rewards.clip_alignment:ClipAlignment",
    "clip_consistency": "pav_jax.rewards.clip_consistency:ClipConsistency",
    "faithfulness": "pav_jax.rewards.faithfulness:Faithfulness",
    "lpips": "pav_jax.rewards.lpips:PerceptualConsistency",
    "motion": "pav_jax.rewards.motion:Motion",
    "mps": "pav_jax.rewards.mps:MPS",
    "videoscore": "pav_jax.rewards.videoscore:VideoScore",
    "vision_questions": "pav_jax.rewards.vision_questions:VisionQuestions",
}
FLOOR_ONLY = ("FAITH",)  # bounds what may be chosen, and is never part of the sum
TEMPORAL = (
    "TC",
    "DD",
    "FC",
)  # judge how frames follow each other: an image, a video of one frame, has none of them
# begins the name of a score that only watches: it is recorded, and nothing is chosen by it
HELD_OUT = "held_out:"


class Reward(Protocol):
    """`score` gives float32 [B] for each of `names`; NaN where a video cannot be scored. A reward
    that reads `refined` gives nothing where there is none. A row's score does not depend on the
    other rows.

    A reward may also have `spread()`: from then on it shares rows among this host's devices.

    Attributes:
      fingerprint: changes when scores may, with kind, options and weights (`rewards.fingerprint`);
        scores of a reward that has none are never kept.
      passing: whether a NaN may come from a failure that passes; such a one is not kept. False
        where absent.
    """

    names: tuple[str, ...]
    fingerprint: str | None = None

    def score(
        self,
        videos: UInt8[np.ndarray, "B T H W 3"],
        prompts: Sequence[str],
        refined: Sequence[str] | None = None,
    ) -> dict[str, Float[np.ndarray, "B"]]: ...


class RewardSuite:
    """Several rewards scored together.

    Attributes:
      names: every score's name that may be weighed, in the order of the configuration.
      held_out: the names of the scores of held-out judges, each with `HELD_OUT` before it.
      weights: of `overall`. Scores not named there have no weight.
      thresholds, floors: least values by name, for those who choose.
    """

    def __init__(
        self,
        rewards: Sequence[Reward],
        weights: Mapping[str, float],
        thresholds: Mapping[str, float] | None = None,
        floors: Mapping[str, float] | None = None,
        held_out: Sequence[Reward] = (),
    ):
        self.rewards, self.judges = tuple(rewards), tuple(held_out)
        self.names = _names("entries", self.rewards)
        self.held_out = tuple(HELD_OUT + name for name in _names("held_out", self.judges))
        self.weights = self._numbers("weights", weights)
        self.thresholds = self._numbers("thresholds", thresholds or {})
        self.floors = self._numbers("floors", floors or {})
        if bounded := [n for n in FLOOR_ONLY if self.weights.get(n)]:
            raise BadInput(
                f"rewards.weights.{bounded[0]}: {bounded[0]} is a floor, not a term of the sum; set"
                f" rewards.floors.{bounded[0]} instead"
            )

    @classmethod
    def from_config(
        cls, config: Any, failed: Callable[[BadInput], None] | None = None
    ) -> "RewardSuite":
        """Builds what a configuration's `rewards` names.

        Args:
          config: `entries`, `weights`, `thresholds`, `floors`, `held_out`, `skip` (names of scores
            that are left out, with the whole reward where it gives no other). `entries` and
            `held_out` are a mapping of kind to options, or a list of options each with its kind as
            `name`; the other options are those of the kind's `from_pretrained` (`path` is its
            folder).
          failed: told why an entry of a known kind cannot be used; its scores are then NaN. Raised
            where None.

        Raises:
          BadInput: an unknown kind or option, or a checkpoint that cannot be used; the message
            names it.
        """
        plain = _plain(config)
        entries, judges = (listed(plain.get(field) or ()) for field in ("entries", "held_out"))
        if not entries:
            raise BadInput(f"rewards.entries: empty; name at least one of {', '.join(KINDS)}")
        skip = tuple(plain.get("skip") or ())
        rewards, held_out = (
            [_built(entry, field, failed) for entry in listed]
            for field, listed in (("entries", entries), ("held_out", judges))
        )
        known = {name for reward in (*rewards, *held_out) for name in reward.names}
        if unknown := sorted(set(skip) - known - set(TEMPORAL)):
            raise BadInput(
                f"rewards.skip: no entry gives {unknown[0]}; there are {', '.join(sorted(known))}"
            )
        rewards, held_out = (list(_without(skip, some)) for some in (rewards, held_out))
        if not rewards:
            raise BadInput(
                f"rewards.skip: {', '.join(skip)} are all that rewards.entries give; name an entry"
                " that gives more"
            )
        return cls(
            rewards,
            plain.get("weights") or {},
            plain.get("thresholds"),
            plain.get("floors"),
            held_out,
        )

    def check_frames(self, frames: int) -> None:
        """Raises BadInput where videos have one frame and a score would judge how frames follow
        each other."""
        asked = [
            name
            for name in (*self.names, *self.held_out)
            if name.removeprefix(HELD_OUT) in TEMPORAL
        ]
        if frames == 1 and asked:
            raise BadInput(
                f"rewards: {', '.join(asked)} judge how frames follow each other, and these videos"
                f" have one frame; leave them out with rewards.skip={TEMPORAL} and without their"
                " weights, or make more frames"
            )

    def spread(self) -> None:
        """Shares the rows of later batches among this host's devices, in the rewards that can."""
        for reward in (*self.rewards, *self.judges):
            if hasattr(reward, "spread"):
                reward.spread()

    def score(
        self,
        videos: UInt8[np.ndarray, "B T H W 3"],
        prompts: Sequence[str],
        refined: Sequence[str] | None = None,
    ) -> dict[str, Float[np.ndarray, "B"]]:
        """Every score of each video against its user's prompt, float32 [B]; NaN where a reward has
        no answer.

        Args:
          refined: the rewrites the videos were made from, for FAITH; without them FAITH is left
            out.
        """
        videos = np.asarray(videos)
        if videos.ndim != 5 or videos.shape[-1] != 3 or videos.dtype != np.uint8:
            raise BadInput(
                f"videos to score: {videos.dtype} {list(videos.shape)}; expected uint8 [B, T, H,"
                " W, 3]"
            )
        if len(prompts) != len(videos) or (refined is not None and len(refined) != len(videos)):
            raise BadInput(
                f"videos to score: {len(videos)} videos, {len(prompts)} prompts"
                + (f", {len(refined)} rewrites" if refined is not None else "")
                + "; give one per video"
            )
        self.check_frames(videos.shape[1])
        if not len(videos):
            return {name: np.zeros(0, np.float32) for name in (*self.names, *self.held_out)}
        scores = {}
        for reward in self.rewards:
            scores |= reward.score(videos, prompts, refined)
        for judge in self.judges:
            scores |= {
                HELD_OUT + name: value
                for name, value in judge.score(videos, prompts, refined).items()
            }
        return {name: np.asarray(value, np.float32) for name, value in scores.items()}

    def overall(
        self, scores: Mapping[str, Any], weights: Mapping[str, float] | None = None
    ) -> Float[np.ndarray, "B"]:
        """The weighted sum. A NaN in any weighed score stays NaN; FAITH and unweighed scores do not
        enter."""
        weights = self.weights if weights is None else self._numbers("weights", weights)
        used = {name: w for name, w in weights.items() if w and name not in FLOOR_ONLY}
        if missing := sorted(set(used) - set(scores)):
            raise BadInput(
                f"overall: there is no score {missing[0]} here, but rewards.weights weighs it"
            )
        rows = max((np.size(value) for value in scores.values()), default=0)
        total = sum(
            (w * np.asarray(scores[name], np.float64) for name, w in used.items()), np.zeros(rows)
        )
        return total.astype(np.float32)

    def _numbers(self, field: str, values: Mapping[str, float]) -> dict[str, float]:
        if unknown := sorted(n for n, v in values.items() if n not in self.names and v):
            raise BadInput(
                f"rewards.{field}.{unknown[0]}: no entry gives this score; there are"
                f" {', '.join(self.names)}"
            )
        return {
            name: float(value)
            for name, value in values.items()
            if name in self.names and value is not None
        }


def build(entry: Mapping[str, Any], field: str = "entries") -> Reward:
    """The reward of one entry of the configuration's `rewards.<field>`. An option set to None keeps
    its default.

    Raises:
      BadInput: an unknown kind or option, a missing path, or an unusable checkpoint.
    """
    options = {k: v for k, v in entry.items() if v is not None}
    kind = options.pop("name", None)
    if kind not in KINDS:
        raise BadInput(
            f"rewards.{field}: there is no reward {kind!r}; the known ones are {', '.join(KINDS)}"
        )
    module, name = KINDS[kind].split(":")
    make = getattr(importlib.import_module(module), name).from_pretrained
    if "path" in options:
        options["folder"] = options.pop("path")
    known = inspect.signature(make).parameters
    if unknown := sorted(set(options) - set(known)):
        shown = ", ".join("path" if k == "folder" else k for k in known)
        raise BadInput(f"rewards.{field}: {kind} has no option {unknown[0]!r}; it has {shown}")
    if missing := [k for k, p in known.items() if p.default is p.empty and k not in options]:
        raise BadInput(
            f"rewards.{field}: {kind} needs {'path' if missing[0] == 'folder' else missing[0]!r}"
        )
    return make(**options)


class Part:
    """A reward without some of its scores."""

    def __init__(self, reward: Reward, names: tuple[str, ...]):
        self.reward, self.names = reward, names
        self.fingerprint = getattr(reward, "fingerprint", None)
        self.passing = getattr(reward, "passing", False)

    def spread(self) -> None:
        if hasattr(self.reward, "spread"):
            self.reward.spread()

    def score(
        self, videos, prompts: Sequence[str], refined=None
    ) -> dict[str, Float[np.ndarray, "B"]]:
        scores = self.reward.score(videos, prompts, refined)
        return {name: value for name, value in scores.items() if name in self.names}


class StandIn:
    """Has no answer to anything: in the place of a reward that cannot be used."""

    def __init__(self, names: tuple[str, ...]):
        self.names = names

    def score(
        self, videos, prompts: Sequence[str], refined=None
    ) -> dict[str, Float[np.ndarray, "B"]]:
        return {name: np.full(len(videos), np.nan, np.float32) for name in self.names}


def _built(
    entry: Mapping[str, Any], field: str, failed: Callable[[BadInput], None] | None
) -> Reward:
    try:
        return build(entry, field)
    except BadInput as error:
        if failed is None or entry.get("name") not in KINDS:
            raise
        failed(error)
        module, name = KINDS[entry["name"]].split(":")
        return StandIn(getattr(importlib.import_module(module), name).names)


def _without(skip: Sequence[str], rewards: Sequence[Reward]) -> Iterator[Reward]:
    for reward in rewards:
        names = tuple(name for name in reward.names if name not in skip)
        if names:
            yield reward if names == tuple(reward.names) else Part(reward, names)


def _names(field: str, rewards: Sequence[Reward]) -> tuple[str, ...]:
    names = tuple(name for reward in rewards for name in reward.names)
    if twice := [n for i, n in enumerate(names) if n in names[:i]]:
        raise BadInput(f"rewards.{field}: two entries give the score {twice[0]}; keep one of them")
    return names


def listed(entries: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Entries by kind as a list of entries with names."""
    if isinstance(entries, Mapping):
        return [{"name": kind, **(options or {})} for kind, options in entries.items()]
    return list(entries)


def _plain(config: Any) -> Any:
    """ConfigDicts, wherever they are, to plain dicts."""
    if hasattr(config, "to_dict"):
        config = config.to_dict()
    if isinstance(config, Mapping):
        return {k: _plain(v) for k, v in config.items()}
    return [_plain(v) for v in config] if isinstance(config, list | tuple) else config
