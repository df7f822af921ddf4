"""Functions of texts as rewards."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pav_jax.rewards.reward import Reward

# (prompts, completions) -> one score each, like TRL's reward_funcs
TextRewardFunction = Callable[[Sequence[str], Sequence[str]], Any]


class TextReward(Reward):
    """A function of texts as a reward, named after the function."""

    reads_video = False

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
