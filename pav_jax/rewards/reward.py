"""The interface of every reward, and the adapter of functions to it.

Shapes: B videos, T frames, H, W height and width in pixels.
"""

import abc
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8

from pav_jax.errors import BadInput

Videos = UInt8[np.ndarray, "B T H W 3"]
Scores = dict[str, Float[np.ndarray, "B"]]
RewardFunction = Callable[[np.ndarray, Sequence[str]], Any]


@runtime_checkable
class Reward(Protocol):
    """Scores videos against the users' prompts. Subclass it and define `names` and `score`.

    Attributes:
      names: the names of the scores.
      fingerprint: changes whenever scores may change (kind, options, weights); scores are cached
        under it. None: scores are never cached.
      transient_failures: whether a NaN may come from a failure that can pass, such as a network
        error; such scores are not cached.
      options: the dataclass of the reward's options in a configuration; None: it has none.
      uses_times: whether `score` takes the keyword `times`, see `score_with_times`.
      reads_video: whether scores depend on the video. False: on the texts only; `score` must then
        accept any videos, and where no reward of a suite reads them, none are made.

    Example:

        class Brightness(pav.Reward):
            names = ("BRIGHT",)

            def score(self, videos, prompts, refined=None):
                return {"BRIGHT": videos.mean(axis=(1, 2, 3, 4)) / 255}
    """

    names: tuple[str, ...] = ()
    fingerprint: str | None = None
    transient_failures: bool = False
    options: ClassVar[type | None] = None
    uses_times: bool = False
    reads_video: bool = True

    @abc.abstractmethod
    def score(
        self, videos: Videos, prompts: Sequence[str], refined: Sequence[str] | None = None
    ) -> Scores:
        """Score each video.

        Args:
          videos: uint8 [B, T, H, W, 3].
          prompts: what the users typed, B of them.
          refined: the rewrites that the videos were made from, where known. A reward that needs
            them returns no score without them.

        Returns:
          name -> float32 [B] for each of `names`; NaN where a video cannot be scored. A score does
          not depend on the other videos of the batch.
        """
        ...

    def frames_read(self, num_frames: int) -> np.ndarray | None:
        """Indices of the frames that a score depends on; None, the default: all.

        A video of only these frames must have the same score. Of a large file, only they are kept.
        """
        del num_frames

    def reduce_frame(self, frame: UInt8[np.ndarray, "H W 3"]) -> np.ndarray:
        """A smaller copy of a frame [H, W, 3] that `score` takes instead; by default the frame.

        Frames of a large file are reduced while it is decoded.
        """
        return frame

    def use_local_devices(self) -> None:
        """Split later batches over this host's devices; a reward that cannot ignores it."""

    @classmethod
    def from_options(cls, options: Any) -> "Reward":
        """Make the reward from its `options`, as a configuration's entry does."""
        del options
        return cls()


def score_with_times(
    reward: Reward,
    videos: np.ndarray,
    prompts: Sequence[str],
    refined: Sequence[str] | None = None,
    times: Float[np.ndarray, "B T"] | None = None,
) -> Scores:
    """`reward.score`, with the time stamps if it uses them.

    Args:
      times: when each frame is shown, in seconds; None: unknown.
    """
    if times is not None and reward.uses_times:
        return reward.score(videos, prompts, refined, times=times)  # type: ignore[call-arg]
    return reward.score(videos, prompts, refined)


class PretrainedReward(Reward):
    """A reward that is loaded from a checkpoint; its options are `from_pretrained`'s arguments."""

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> "PretrainedReward":
        """Load the reward; subclasses list their arguments."""
        raise NotImplementedError(f"{cls.__name__} must define from_pretrained")

    @classmethod
    def from_options(cls, options: Any) -> "PretrainedReward":
        """Load the reward from its options dataclass."""
        return cls.from_pretrained(**vars(options))


class FunctionReward(Reward):
    """A function (videos, prompts) -> scores [B] as a reward with one score."""

    def __init__(self, function: RewardFunction, name: str):
        self.function = function
        self.names = (name,)

    def score(
        self, videos: Videos, prompts: Sequence[str], refined: Sequence[str] | None = None
    ) -> Scores:
        """Call the function on videos [B, T, H, W, 3] and prompts; returns its scores [B]."""
        (name,) = self.names
        scores = np.asarray(self.function(videos, prompts), np.float32)
        if scores.shape != (len(videos),):
            raise BadInput(
                f"the reward {name} returned an array of shape {list(scores.shape)} for"
                f" {len(videos)} videos; return one number per video",
                source=name,
                field="score",
            )
        return {name: scores}


def as_reward(reward: Any, name: str | None = None) -> Reward:
    """Adapt a function (videos, prompts) -> scores; a `Reward` is returned unchanged.

    Args:
      name: of the function's score; None: the function's own name.

    Raises:
      BadInput: neither a `Reward` nor a function with a name.
    """
    if isinstance(reward, Reward) and not isinstance(reward, type):
        return reward
    if isinstance(reward, type) or not callable(reward):
        raise BadInput(
            f"rewards: {reward!r} is not a reward; pass an instance of a subclass of"
            " pav_jax.Reward, or a function (videos, prompts) -> scores",
            source="rewards",
        )
    name = name or getattr(reward, "__name__", None)
    if name in (None, "<lambda>"):
        raise BadInput(
            "rewards: a function without a name; use pav_jax.rewards.as_reward(function, name=...)",
            source="rewards",
            field="name",
        )
    return FunctionReward(reward, name)
