"""CFC, CLIP frame consistency: the mean cosine of neighbouring frames' CLIP embeddings.

The measure is "CLIP-Temp" of EvalCrafter (Liu et al. 2023, arXiv 2310.11440, section 3.3) and the
frame consistency of video editing papers (Esser et al. 2023, arXiv 2302.03011, section 4). At most
1, which a still picture reaches: read it beside DD.
"""

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pav_jax.errors import BadInput
from pav_jax.rewards.clip_tower import ClipTower
from pav_jax.rewards.fingerprint import fingerprint
from pav_jax.rewards.options import ClipConsistencyOptions
from pav_jax.rewards.reward import PretrainedReward


class ClipConsistency(PretrainedReward):
    """CFC behind the suite's protocol, on the tower that the suite's other CLIP rewards of the
    folder use.

    Example, as a judge that no stage optimises:

        --config.rewards.held_out="({'name': 'clip_consistency', 'path': 'mini:clip'},)"
    """

    names = ("CFC",)
    options = ClipConsistencyOptions

    def __init__(self, tower: ClipTower, frames: int | None = None):
        if frames is not None and frames < 2:
            raise BadInput(
                f"rewards.entries: clip_consistency's frames is {frames}; neighbours need at"
                " least 2"
            )
        self.tower, self.frames = tower, frames

    @classmethod
    def from_pretrained(
        cls, path: str | Path, frames: int | None = None, dtype: str = "float32"
    ) -> "ClipConsistency":
        """`path`: a CLIP in transformers' layout. `frames`: so many evenly spaced ones; all where
        None.

        Raises:
          BadInput: a missing, half-written or foreign checkpoint.
        """
        return cls(ClipTower.load(path, dtype), frames)

    @functools.cached_property
    def fingerprint(self) -> str:
        return fingerprint(
            "clip_consistency", clip=self.tower.folder, dtype=self.tower.dtype, frames=self.frames
        )

    def use_local_devices(self) -> None:
        self.tower.use_local_devices()

    def score(
        self, videos: np.ndarray, prompts: Sequence[str], refined=None
    ) -> dict[str, np.ndarray]:
        count = min(self.frames or videos.shape[1], videos.shape[1])
        if count < 2:
            return {"CFC": np.full(len(videos), np.nan, np.float32)}
        x_BxTxP = self.tower.embed_frames(videos, count).astype(np.float64)
        x_BxTxP /= np.maximum(np.linalg.norm(x_BxTxP, axis=-1, keepdims=True), 1e-12)
        return {"CFC": (x_BxTxP[:, 1:] * x_BxTxP[:, :-1]).sum(-1).mean(1).astype(np.float32)}
