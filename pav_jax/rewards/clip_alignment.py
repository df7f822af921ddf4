"""TVA: how well the frames match the user's prompt, by CLIP.

Score = mean over n evenly spaced frames of exp(logit_scale) * cos(image, text), the logit CLIP was
trained with (Radford et al. 2021, section 2.3), so its unit is nats: with OpenAI's scale of 100 it
lies at about 15 to 35. It is CLIPScore (Hessel et al. 2021) averaged over frames, with CLIP's own
scale instead of 2.5 and without the cut at zero.
"""

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pav_jax.rewards.clip_tower import ClipTower, check_layout
from pav_jax.rewards.fingerprint import fingerprint
from pav_jax.rewards.options import ClipAlignmentOptions
from pav_jax.rewards.reward import PretrainedReward


class ClipAlignment(PretrainedReward):
    """TVA behind the suite's protocol."""

    names = ("TVA",)
    options = ClipAlignmentOptions

    def __init__(self, tower: ClipTower, frames: int = 4, layout: str = "frames"):
        self.tower, self.frames, self.layout = tower, frames, check_layout(layout)

    @classmethod
    def from_pretrained(
        cls, path: str | Path, frames: int = 4, layout: str = "frames", dtype: str = "float32"
    ) -> "ClipAlignment":
        """`path`: a CLIP in transformers' layout with its tokenizer. `layout`: see
        `ClipTower.embed_frames`.

        Raises:
          BadInput: a missing, half-written or foreign checkpoint.
        """
        return cls(ClipTower.load(path, dtype), frames, layout)

    @functools.cached_property
    def fingerprint(self) -> str:
        return fingerprint(
            "clip_alignment",
            clip=self.tower.folder,
            dtype=self.tower.dtype,
            frames=self.frames,
            layout=self.layout,
        )

    def use_local_devices(self) -> None:
        self.tower.use_local_devices()

    def score(
        self, videos: np.ndarray, prompts: Sequence[str], refined=None
    ) -> dict[str, np.ndarray]:
        images_BxNxP = _unit(self.tower.embed_frames(videos, self.frames, self.layout))
        texts_BxP = _unit(self.tower.embed_texts(prompts))
        cosines_BxN = (images_BxNxP * texts_BxP[:, None]).sum(-1)
        return {"TVA": (self.tower.scale * cosines_BxN.mean(1)).astype(np.float32)}


def _unit(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
