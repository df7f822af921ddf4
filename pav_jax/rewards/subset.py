"""Rewards in place of another one: without some of its scores, or without an answer."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8

from pav_jax.rewards.registry import reads_video
from pav_jax.rewards.reward import Reward, Scores, Videos, score_with_times


class RewardSubset(Reward):
    """A reward without some of its scores."""

    def __init__(self, reward: Reward, names: tuple[str, ...]):
        self.reward = reward
        self.names = names
        self.transient_failures = reward.transient_failures
        self.uses_times = reward.uses_times

    @property
    def reads_video(self) -> bool:
        """As the whole reward."""
        return reads_video(self.reward)

    @property
    def fingerprint(self) -> str | None:
        """That of the whole reward."""
        return self.reward.fingerprint

    def use_local_devices(self) -> None:
        """Run on the local devices of this process only; see `Reward.use_local_devices`."""
        self.reward.use_local_devices()

    def frames_read(self, num_frames: int) -> np.ndarray | None:
        """Those of the whole reward."""
        return self.reward.frames_read(num_frames)

    def reduce_frame(self, frame: UInt8[np.ndarray, "H W 3"]) -> np.ndarray:
        """As the whole reward; frame [H, W, 3]."""
        return self.reward.reduce_frame(frame)

    def score(
        self,
        videos: Videos,
        prompts: Sequence[str],
        refined: Sequence[str] | None = None,
        times: Float[np.ndarray, "B T"] | None = None,
    ) -> Scores:
        """Score videos [B, T, H, W, 3]; returns only the scores of the subset."""
        scores = score_with_times(self.reward, videos, prompts, refined, times)
        return {name: value for name, value in scores.items() if name in self.names}


class UnavailableReward(Reward):
    """Stands for a reward whose checkpoint cannot be used: every score is NaN."""

    def __init__(self, names: tuple[str, ...]):
        self.names = names

    def frames_read(self, num_frames: int) -> np.ndarray:
        """Only the first, as no frame matters."""
        return np.zeros(1, int)

    def score(
        self, videos: Videos, prompts: Sequence[str], refined: Sequence[str] | None = None
    ) -> Scores:
        """NaN for every score and video."""
        return {name: np.full(len(videos), np.nan, np.float32) for name in self.names}
