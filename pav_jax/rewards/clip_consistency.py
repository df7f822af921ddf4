"""CFC: CLIP frame consistency, the mean cosine of the CLIP embeddings of neighbouring frames.

This is "CLIP-Temp" of EvalCrafter (Liu et al. 2023, arXiv 2310.11440, section 3.3), and the frame
consistency of papers on video editing (Esser et al. 2023, arXiv 2302.03011, section 4). A still
picture has the largest value, 1: compare with DD.
"""

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pav_jax.errors import BadInput
from pav_jax.rewards.clip_tower import ClipTower, Dtype, unit_length
from pav_jax.rewards.fingerprint import fingerprint
from pav_jax.rewards.options import ClipConsistencyOptions
from pav_jax.rewards.preprocess import frames_at_most
from pav_jax.rewards.reward import PretrainedReward, Scores, Videos


class ClipConsistency(PretrainedReward):
    """The reward CFC. It shares its CLIP with the other rewards of the same checkpoint.

    As a held-out evaluator:

        --config.rewards.held_out="({'name': 'clip_consistency', 'path': 'mini:clip'},)"
    """

    names = ("CFC",)
    options = ClipConsistencyOptions

    def __init__(self, tower: ClipTower, frames: int | None = None):
        if frames is not None and frames < 2:
            raise BadInput(
                f"clip_consistency: frames is {frames}; neighbouring frames need at least 2",
                source="clip_consistency",
                field="frames",
            )
        self.tower = tower
        self.frames = frames

    @classmethod
    def from_pretrained(
        cls, path: str | Path, frames: int | None = None, dtype: Dtype = "float32"
    ) -> "ClipConsistency":
        """Loads a CLIP.

        Args:
          path: a CLIP checkpoint in the layout of transformers: a folder or a Hub repository.
          frames: number of evenly spaced frames of a video that are compared; None: all.
          dtype: of the CLIP.

        Raises:
          BadInput: the checkpoint is missing, incomplete or of another model.
        """
        return cls(ClipTower.load(path, dtype), frames)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Identifies the weights and settings of the scores in cache keys."""
        return fingerprint(
            "clip_consistency", clip=self.tower.folder, dtype=self.tower.dtype, frames=self.frames
        )

    def use_local_devices(self) -> None:
        """Run on the local devices of this process only; see `Reward.use_local_devices`."""
        self.tower.use_local_devices()

    def frames_read(self, num_frames: int) -> np.ndarray | None:
        """Evenly spaced frames, or all."""
        return None if self.frames is None else frames_at_most(num_frames, self.frames)

    def score(
        self, videos: Videos, prompts: Sequence[str], refined: Sequence[str] | None = None
    ) -> Scores:
        """Score videos [B, T, H, W, 3]; returns CFC [B], NaN for fewer than two frames."""
        count = min(self.frames or videos.shape[1], videos.shape[1])
        if count < 2:
            return {"CFC": np.full(len(videos), np.nan, np.float32)}
        x_BxTxP = unit_length(self.tower.embed_frames(videos, count))
        return {"CFC": (x_BxTxP[:, 1:] * x_BxTxP[:, :-1]).sum(-1).mean(1).astype(np.float32)}
