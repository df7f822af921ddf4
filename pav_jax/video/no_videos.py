"""The generator where every reward reads texts only."""

from collections.abc import Sequence

import numpy as np

from pav_jax.video.generator import Generator
from pav_jax.video.images import Images

EMPTY_VIDEO = (1, 1, 1, 3)  # frames, height, width, channels


class NoVideos(Generator):
    """Placeholders of one black pixel; they are neither counted, checked nor saved as videos."""

    fingerprint = "no videos"

    def generate(
        self, prompts: Sequence[str], *, seed: Sequence[int], image: Images = None
    ) -> np.ndarray:
        """One placeholder for each prompt, uint8 [B, 1, 1, 1, 3]."""
        del seed, image
        return np.zeros((len(prompts), *EMPTY_VIDEO), np.uint8)
