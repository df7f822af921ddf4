"""GRPO on rewards that read texts only, without videos."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pav_jax.rewards.reward import Reward
from pav_jax.rewards.suite import RewardSuite
from pav_jax.video.generator import Generator

# (prompts, completions) -> one score each, like TRL's reward_funcs
TextRewardFunction = Callable[[Sequence[str], Sequence[str]], Any]

EMPTY_VIDEO = (1, 1, 1, 3)  # frames, height, width, channels


class NoVideos(Generator):
    """A generator of empty videos, for rewards that do not read them."""

    fingerprint = "no videos"

    def generate(self, prompts: Sequence[str], *, seed: Sequence[int]) -> np.ndarray:
        """One black pixel for each prompt."""
        del seed
        return np.zeros((len(prompts), *EMPTY_VIDEO), np.uint8)


class TextReward(Reward):
    """A function of texts as a reward, named after the function."""

    def __init__(self, function: TextRewardFunction):
        self.function = function
        self.names = (getattr(function, "__name__", type(function).__name__),)

    def score(
        self, videos: np.ndarray, prompts: Sequence[str], refined: Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Score the rewrites; NaN without them."""
        if refined is None:
            return {self.names[0]: np.full(len(videos), np.nan, np.float32)}
        scores = self.function(list(prompts), list(refined))
        return {self.names[0]: np.asarray(scores, np.float32)}


def text_suite(functions: Sequence[TextRewardFunction]) -> RewardSuite:
    """A suite that adds up functions of texts."""
    rewards = [TextReward(function) for function in functions]
    return RewardSuite(rewards, weights={reward.names[0]: 1.0 for reward in rewards})
