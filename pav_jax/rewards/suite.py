"""Several rewards scored together: names, weights, thresholds, constraints, held-out evaluators."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from ml_collections import ConfigDict

from pav_jax.errors import BadInput
from pav_jax.rewards.registry import KINDS, Entry, parse_entries, reads_video
from pav_jax.rewards.reward import Reward, Scores, as_reward, score_with_times
from pav_jax.rewards.subset import RewardSubset, UnavailableReward

CONSTRAINT_ONLY = ("FAITH",)  # constrains what may be chosen; never a term of the weighted sum
PENALTIES = ("LENGTH",)  # at most 0, which is what most rewrites should have
# compare frames; undefined for images, videos of one frame
TEMPORAL_SCORES = ("TC", "DD", "FC", "VR_MQ")
HELD_OUT = "held_out:"  # prefix of scores that are recorded and never used for selection
BOUNDS = ("weights", "thresholds", "constraints")


class RewardSuite:
    """Several rewards scored together.

    Args:
      rewards: `pav.Reward`s, or functions (videos, prompts) -> scores [B].
      weights: score name -> weight in `overall`; other scores have no weight.
      thresholds: score name -> a selected rewrite's score lies above it.
      constraints: score name -> least value of a feasible rewrite.
      held_out: rewards that are recorded under "held_out:NAME" and never used for selection.

    Attributes:
      names: the names of the scores that can have a weight, in the order of `rewards`.
      held_out: the names of the held-out scores, with their prefix.

    Raises:
      BadInput: two rewards give one score, or a weight or bound names an unknown score.
    """

    def __init__(
        self,
        rewards: Sequence[Reward | Callable],
        weights: Mapping[str, float],
        thresholds: Mapping[str, float] | None = None,
        constraints: Mapping[str, float] | None = None,
        held_out: Sequence[Reward | Callable] = (),
    ):
        self.rewards = tuple(as_reward(reward) for reward in rewards)
        self.held_out_rewards = tuple(as_reward(reward) for reward in held_out)
        self.names = _unique_names("entries", self.rewards)
        held_out_names = _unique_names("held_out", self.held_out_rewards)
        self.held_out = tuple(HELD_OUT + name for name in held_out_names)
        self.weights = self._bounds("weights", weights)
        self.thresholds = self._bounds("thresholds", thresholds or {})
        self.constraints = self._bounds("constraints", constraints or {})
        _check_faith(self.weights, "rewards.weights")

    @classmethod
    def from_config(
        cls, config: Any, on_error: Callable[[BadInput], None] | None = None
    ) -> "RewardSuite":
        """Load what a configuration's `rewards` names.

        Args:
          config: the fields of `defaults.RewardsConfig`.
          on_error: called for an entry whose checkpoint cannot be used; its scores are then NaN.
            None: the error is raised.

        Raises:
          BadInput: an unknown kind or option, or a checkpoint that cannot be used.
        """
        cls.check_config(config)
        plain = _plain(config)
        entries = _entries(plain, "entries")
        held_out = _entries(plain, "held_out")
        skip = tuple(plain.get("skip") or ())
        return cls(
            _subsets(skip, (_build(entry, on_error) for entry in entries)),
            plain.get("weights") or {},
            plain.get("thresholds"),
            plain.get("constraints"),
            _subsets(skip, (_build(entry, on_error) for entry in held_out)),
        )

    @staticmethod
    def check_config(config: Any) -> None:
        """Check a configuration's `rewards` without loading anything.

        Names of scores are checked unless a plug-in is among the entries: its names are available
        only after its import.

        Raises:
          BadInput: the first entry, weight or bound that cannot be used.
        """
        plain = _plain(config)
        entries = _entries(plain, "entries")
        held_out = _entries(plain, "held_out")
        skip = tuple(plain.get("skip") or ())
        for field in BOUNDS:
            _check_numbers(f"rewards.{field}", plain.get(field))
        _check_faith(plain.get("weights") or {}, "rewards.weights")
        if any(entry.names is None for entry in (*entries, *held_out)):
            return
        names = _scored(entries)
        unknown = sorted(set(skip) - {*names, *_scored(held_out)} - set(TEMPORAL_SCORES))
        if unknown:
            available = ", ".join(names)
            raise _bad("skip", f"rewards.skip: no entry gives {unknown[0]}; there are {available}")
        left = [name for name in names if name not in skip]
        if not left:
            raise _bad("skip", "rewards.skip leaves out every score of rewards.entries")
        for field in BOUNDS:
            _check_known(f"rewards.{field}", plain.get(field) or {}, left)

    @staticmethod
    def check_stage(config: Any, stage: str, section: Mapping[str, Any]) -> None:
        """Check a stage's own weights, thresholds and constraints, as `check_config` does.

        Args:
          config: the section `rewards`, which has been checked.
          stage: name of the section; "rewards" is checked for weights that are all 0.
          section: its fields.

        Raises:
          BadInput: the first weight or bound that cannot be used.
        """
        plain = _plain(config)
        entries = _entries(plain, "entries")
        names = [name for name in _scored(entries) if name not in (plain.get("skip") or ())]
        has_plugin = any(entry.names is None for entry in entries)
        for field in BOUNDS:
            path = f"{stage}.{field}"
            values = _check_numbers(path, section.get(field))
            if field == "weights" and (values or stage == "rewards"):
                _check_weights(values, path)
            if not has_plugin:  # whose names are available only after its import
                _check_known(path, values, names)

    def check_frames(self, num_frames: int) -> None:
        """Refuse images where a score compares frames.

        Raises:
          BadInput: videos have one frame and a score is temporal.
        """
        names = (*self.names, *self.held_out)
        temporal = [name for name in names if name.removeprefix(HELD_OUT) in TEMPORAL_SCORES]
        if num_frames == 1 and temporal:
            raise _bad(
                "skip",
                f"rewards: {', '.join(temporal)} compare frames, and these videos have one frame;"
                f" leave them out with rewards.skip={TEMPORAL_SCORES} and without their weights, or"
                " make more frames",
            )

    @property
    def reads_video(self) -> bool:
        """Whether any score, also a held-out one, depends on the video."""
        return bool(self.video_scores)

    @property
    def video_scores(self) -> tuple[str, ...]:
        """The names of the scores that depend on the video."""
        rewards = (*self.rewards, *self.held_out_rewards)
        return tuple(name for reward in rewards if reads_video(reward) for name in reward.names)

    @staticmethod
    def config_reads_video(config: Any) -> bool:
        """`reads_video` of the suite of a configuration's `rewards`, without loading it.

        Raises:
          BadInput: a plug-in cannot be imported.
        """
        plain = _plain(config)
        skip = tuple(plain.get("skip") or ())
        entries = [*_entries(plain, "entries"), *_entries(plain, "held_out")]
        return any(
            entry.reads_video
            for entry in entries
            if entry.names is None or not set(entry.names) <= set(skip)
        )

    def use_local_devices(self) -> None:
        """Split later batches over this host's devices, in the rewards that can."""
        for reward in (*self.rewards, *self.held_out_rewards):
            reward.use_local_devices()

    def score(
        self,
        videos: np.ndarray,
        prompts: Sequence[str],
        refined: Sequence[str] | None = None,
        fps: float | None = None,
    ) -> Scores:
        """Score each video against its user's prompt.

        Args:
          videos: uint8 [B, T, H, W, 3].
          prompts: what the users typed, B of them.
          refined: the rewrites that the videos were made from; without them FAITH is left out.
          fps: frames per second of the videos; None: that of `motion.FRAME_RATE`.

        Returns:
          name -> float32 [B]; NaN where a reward has no answer.

        Raises:
          BadInput: arguments of other shapes or types.
        """
        videos = _checked(videos, prompts, refined)
        if not len(videos):
            return {name: np.zeros(0, np.float32) for name in (*self.names, *self.held_out)}
        self.check_frames(videos.shape[1])
        times = frame_times(videos, fps)
        scores: dict[str, Any] = {}
        for reward in self.rewards:
            scores |= score_with_times(reward, videos, prompts, refined, times)
        for reward in self.held_out_rewards:
            answers = score_with_times(reward, videos, prompts, refined, times)
            scores |= {HELD_OUT + name: value for name, value in answers.items()}
        return {name: np.asarray(value, np.float32) for name, value in scores.items()}

    def overall(
        self, scores: Mapping[str, Any], weights: Mapping[str, float] | None = None
    ) -> Float[np.ndarray, "B"]:
        """The weighted sum of scores, float32 [B].

        A NaN in a score that has a weight stays NaN. FAITH does not enter.

        Args:
          scores: name -> [B].
          weights: None: the suite's.

        Raises:
          BadInput: a score that has a weight is missing.
        """
        weights = self.weights if weights is None else self._bounds("weights", weights)
        used = {name: w for name, w in weights.items() if w and name not in CONSTRAINT_ONLY}
        missing = sorted(set(used) - set(scores))
        if missing:
            raise _bad(
                f"weights.{missing[0]}",
                f"overall: there is no score {missing[0]}, but rewards.weights gives it a weight",
            )
        count = max((np.size(value) for value in scores.values()), default=0)
        terms = (w * np.asarray(scores[name], np.float64) for name, w in used.items())
        return sum(terms, np.zeros(count)).astype(np.float32)

    def _bounds(self, field: str, values: Mapping[str, float]) -> dict[str, float]:
        _check_known(f"rewards.{field}", dict(sorted(values.items())), self.names)
        return {
            name: float(value)
            for name, value in values.items()
            if name in self.names and value is not None
        }


def frame_times(videos: np.ndarray, fps: float | None) -> Float[np.ndarray, "B T"] | None:
    """When the frames of videos [B, T, H, W, 3] are shown, in seconds; None if `fps` is."""
    if fps is None:
        return None
    return np.broadcast_to(np.arange(videos.shape[1]) / fps, videos.shape[:2])


def _entries(plain: Mapping[str, Any], field: str) -> list[Entry]:
    entries = parse_entries(plain.get(field) or (), field)
    if field == "entries" and not entries:
        raise _bad(field, f"rewards.entries: empty; name at least one of {', '.join(KINDS)}")
    names = _scored(entries)
    repeated = [name for i, name in enumerate(names) if name in names[:i]]
    if repeated:
        raise _repeated_score(field, repeated[0])
    return entries


def _scored(entries: Iterable[Entry]) -> list[str]:
    return [name for entry in entries for name in entry.names or ()]


def _build(entry: Entry, on_error: Callable[[BadInput], None] | None) -> Reward:
    try:
        return entry.build()
    except BadInput as error:
        if on_error is None or entry.names is None:
            raise
        on_error(error)
        return UnavailableReward(entry.names)


def _subsets(skip: Sequence[str], rewards: Iterable[Reward]) -> list[Reward]:
    subsets: list[Reward] = []
    for reward in rewards:
        names = tuple(name for name in reward.names if name not in skip)
        if names == tuple(reward.names):
            subsets.append(reward)
        elif names:
            subsets.append(RewardSubset(reward, names))
    return subsets


def _unique_names(field: str, rewards: Sequence[Reward]) -> tuple[str, ...]:
    names = tuple(name for reward in rewards for name in reward.names)
    for i, name in enumerate(names):
        if name in names[:i]:
            raise _repeated_score(field, name)
    return names


def _check_numbers(path: str, values: Any) -> Mapping[str, Any]:
    """The weights or bounds in the field `path`; an empty mapping if they are unset."""
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        raise _invalid(path, f"{path}={values!r}: give a mapping of score names to numbers")
    for name, value in values.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (is_number and math.isfinite(value)):
            raise _invalid(f"{path}.{name}", f"{path}.{name}={value!r}: it must be a finite number")
    _check_reachable(path, values.get("FAITH"))
    return values


def _check_reachable(path: str, faith: float | None) -> None:
    """Refuse a bound of FAITH, which is at most 1, that no rewrite can meet."""
    if faith is None or path.endswith("weights"):
        return
    if faith > 1 or (faith == 1 and path.endswith("thresholds")):
        raise _invalid(f"{path}.FAITH", f"{path}.FAITH={faith}: FAITH is at most 1; nothing passes")


def _check_weights(weights: Mapping[str, float], path: str) -> None:
    """Check the weights of a configuration: without any, all rewrites would be equally good."""
    _check_faith(weights, path)
    if not any(weights.values()):
        raise _invalid(
            path, f"{path}={dict(weights)!r}: give at least one score a weight other than 0"
        )


def _check_faith(weights: Mapping[str, float], path: str) -> None:
    for name in CONSTRAINT_ONLY:
        if weights.get(name):
            raise _invalid(
                f"{path}.{name}",
                f"{path}.{name}: {name} is a constraint, not a term of the sum; set"
                f" {path.rpartition('.')[0]}.constraints.{name} instead",
            )


def _checked(
    videos: Any, prompts: Sequence[str], refined: Sequence[str] | None
) -> UInt8[np.ndarray, "B T H W 3"]:
    videos = np.asarray(videos)
    if videos.ndim != 5 or videos.shape[-1] != 3 or videos.dtype != np.uint8:
        raise BadInput(
            f"videos to score: {videos.dtype} {list(videos.shape)}; expected uint8 [B, T, H, W, 3]",
            source="videos",
        )
    if len(prompts) != len(videos) or (refined is not None and len(refined) != len(videos)):
        rewrites = "" if refined is None else f", {len(refined)} rewrites"
        raise BadInput(
            f"videos to score: {len(videos)} videos, {len(prompts)} prompts{rewrites}; give one per"
            " video",
            source="prompts",
        )
    return videos


def _plain(config: Any) -> Any:
    """ConfigDicts and tuples in a tree as plain dicts and lists."""
    if isinstance(config, ConfigDict):
        config = config.to_dict()
    if isinstance(config, Mapping):
        return {name: _plain(value) for name, value in config.items()}
    return [_plain(value) for value in config] if isinstance(config, list | tuple) else config


def _check_known(path: str, values: Mapping[str, float], names: Sequence[str]) -> None:
    """Refuse a weight or bound of a score that no entry gives; 0 and None are not used."""
    for name, value in values.items():
        if value and name not in names:
            raise _invalid(
                f"{path}.{name}",
                f"{path}.{name}: no entry gives this score; there are {', '.join(names)}",
            )


def _repeated_score(field: str, name: str) -> BadInput:
    return _bad(field, f"rewards.{field}: two entries give the score {name}; keep one of them")


def _bad(field: str, message: str) -> BadInput:
    return _invalid(f"rewards.{field}", message)


def _invalid(path: str, message: str) -> BadInput:
    return BadInput(message, source="configuration", field=path)
