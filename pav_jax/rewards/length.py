"""LENGTH: a smooth penalty of rewrites outside a range of words.

With n words (separated by white space), LENGTH = -d^2, where d is the relative distance to the
range: (minimum - n) / minimum below it, (n - maximum) / maximum above it, 0 within. It has no unit.
The value and its slope are 0 at both ends of the range; an empty rewrite has -1, one of twice the
maximum too, one of three times the maximum -4.
"""

from collections.abc import Sequence

import numpy as np

from pav_jax.rewards.options import LengthOptions
from pav_jax.rewards.reward import PretrainedReward, Scores, Videos


class Length(PretrainedReward):
    """The reward LENGTH. Without rewrites there is no score.

    Args:
      minimum, maximum: of the words that cost nothing.
    """

    names = ("LENGTH",)
    options = LengthOptions
    reads_video = False

    def __init__(self, minimum: int, maximum: int):
        self.range = LengthOptions(minimum, maximum)

    @classmethod
    def from_pretrained(cls, minimum: int, maximum: int) -> "Length":
        """Make the reward from its options; nothing is loaded."""
        return cls(minimum, maximum)

    def score(
        self, videos: Videos | None, prompts: Sequence[str], refined: Sequence[str] | None = None
    ) -> Scores:
        """Score the rewrites; returns LENGTH [B], nothing without rewrites."""
        del videos, prompts
        if refined is None:
            return {}
        words_B = np.array([len(text.split()) for text in refined], np.float64)
        below_B = np.maximum(self.range.minimum - words_B, 0) / self.range.minimum
        above_B = np.maximum(words_B - self.range.maximum, 0) / self.range.maximum
        return {"LENGTH": (-((below_B + above_B) ** 2)).astype(np.float32)}
