"""Several rewards scored together: names, weights, thresholds, constraints, held-out evaluators."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from pav_jax.errors import BadInput
from pav_jax.rewards.registry import Entry, reads_video
from pav_jax.rewards.reward import Reward, Scores, as_reward, score_with_times
from pav_jax.rewards.subset import RewardSubset, UnavailableReward
from pav_jax.rewards.suite_config import (
    CONSTRAINT_ONLY,
    TEMPORAL_SCORES,
    bad_field,
    check_config,
    check_faith,
    check_known,
    check_unique,
    held_out_notice,
    plain_values,
    read_entries,
)

PENALTIES = ("LENGTH",)  # at most 0, which is what most rewrites should have
HELD_OUT = "held_out:"  # prefix of scores that are recorded and never used for selection

log = logging.getLogger(__name__)


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
        check_faith(self.weights, "rewards.weights")

    @classmethod
    def from_config(
        cls, config: Any, on_error: Callable[[BadInput], None] | None = None
    ) -> "RewardSuite":
        """Load what a configuration's `rewards` names.

        Judges over an endpoint (`Kind.held_out_by_default`) among its `entries` are held out, with
        a warning, unless `weights`, `thresholds` or `constraints` name one of their scores.

        Args:
          config: the fields of `defaults.RewardsConfig`.
          on_error: called for an entry whose checkpoint cannot be used; its scores are then NaN.
            None: the error is raised.

        Raises:
          BadInput: an unknown kind or option, or a checkpoint that cannot be used.
        """
        check_config(config)
        plain = plain_values(config)
        entries = read_entries(plain)
        for entry in entries.by_default:
            log.warning("%s", held_out_notice(entry))

        def load(listed: Iterable[Entry]) -> list[Reward]:
            return _subsets(entries.skip, (_build(entry, on_error) for entry in listed))

        return cls(
            load(entries.optimized),
            plain.get("weights") or {},
            plain.get("thresholds"),
            plain.get("constraints"),
            load(entries.held_out),
        )

    def check_frames(self, num_frames: int) -> None:
        """Refuse images where a score compares frames.

        Raises:
          BadInput: videos have one frame and a score is temporal.
        """
        names = (*self.names, *self.held_out)
        temporal = [name for name in names if name.removeprefix(HELD_OUT) in TEMPORAL_SCORES]
        if num_frames == 1 and temporal:
            raise bad_field(
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
            raise bad_field(
                f"weights.{missing[0]}",
                f"overall: there is no score {missing[0]}, but rewards.weights gives it a weight",
            )
        count = max((np.size(value) for value in scores.values()), default=0)
        terms = (w * np.asarray(scores[name], np.float64) for name, w in used.items())
        return sum(terms, np.zeros(count)).astype(np.float32)

    def _bounds(self, field: str, values: Mapping[str, float]) -> dict[str, float]:
        check_known(f"rewards.{field}", dict(sorted(values.items())), self.names)
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
    check_unique(field, names)
    return names


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
