"""TVA: text-to-video alignment, the CLIP similarity of the frames and the user's prompt.

Score = mean over n evenly spaced frames of exp(logit_scale) * cos(image, text), the logit that CLIP
is trained with (Radford et al. 2021, section 2.3). Its unit is nats; with OpenAI's scale of 100 it
is about 15 to 35. This is CLIPScore (Hessel et al. 2021) averaged over frames, with CLIP's own
scale instead of 2.5 and without clipping at zero.
"""

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pav_jax.rewards.clip_tower import ClipTower, Dtype, Layout, check_layout, unit_length
from pav_jax.rewards.fingerprint import fingerprint
from pav_jax.rewards.options import ClipAlignmentOptions
from pav_jax.rewards.preprocess import frame_indices
from pav_jax.rewards.reward import PretrainedReward, Scores, Videos


class ClipAlignment(PretrainedReward):
    """The reward TVA."""

    names = ("TVA",)
    options = ClipAlignmentOptions

    def __init__(self, tower: ClipTower, frames: int = 4, layout: Layout = "frames"):
        self.tower = tower
        self.frames = frames
        self.layout: Layout = check_layout(layout)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        frames: int = 4,
        layout: Layout = "frames",
        dtype: Dtype = "float32",
    ) -> "ClipAlignment":
        """Loads a CLIP.

        Args:
          path: a CLIP checkpoint with its tokenizer in the layout of transformers: a folder or a
            Hub repository.
          frames: number of evenly spaced frames of a video that are scored.
          layout: see `ClipTower.embed_frames`.
          dtype: of the CLIP.

        Raises:
          BadInput: the checkpoint is missing, incomplete or of another model.
        """
        return cls(ClipTower.load(path, dtype), frames, layout)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Identifies the weights and settings of the scores in cache keys."""
        return fingerprint(
            "clip_alignment",
            clip=self.tower.folder,
            dtype=self.tower.dtype,
            frames=self.frames,
            layout=self.layout,
        )

    def use_local_devices(self) -> None:
        """Run on the local devices of this process only; see `Reward.use_local_devices`."""
        self.tower.use_local_devices()

    def frames_read(self, num_frames: int) -> np.ndarray:
        """Evenly spaced frames."""
        return frame_indices(num_frames, self.frames)

    def score(
        self, videos: Videos, prompts: Sequence[str], refined: Sequence[str] | None = None
    ) -> Scores:
        """Score videos [B, T, H, W, 3] by their prompts; returns TVA [B]."""
        images_BxNxP = unit_length(self.tower.embed_frames(videos, self.frames, self.layout))
        texts_BxP = unit_length(self.tower.embed_texts(prompts))
        cosines_BxN = (images_BxNxP * texts_BxP[:, None]).sum(-1)
        return {"TVA": (self.tower.scale * cosines_BxN.mean(1)).astype(np.float32)}
