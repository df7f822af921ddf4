"""Open-Sora's VAE 1.2: a 2-D autoencoder per frame, a temporal one per clip of 17 frames, channels
normalised.

The clips ("micro frames") know nothing of each other, so their length is part of the model's
definition: 17 frames become 5 latent frames, 51 become 15. Source: hpcaitech/Open-Sora, tag v1.2.0,
`opensora/models/vae/vae.py`.

Shapes: B videos, T, H, W their frames and pixels; t, h, w the same axes in latent space, C
channels.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from pav_jax.models.attention.blockwise import blockwise_attention
from pav_jax.models.causal_conv import ConvImpl
from pav_jax.models.opensora.vae_spatial import AutoencoderKL, AutoencoderKLConfig, over_frames
from pav_jax.models.opensora.vae_temporal import TemporalVAE, TemporalVAEConfig

# Pixels that the 2-D autoencoder works on at once: two frames of 480p, one of 720p, which takes 3
# to 4 GiB in bfloat16.
PIXELS = 1_000_000
SPATIAL_SCALE = (
    0.18215  # between the two autoencoders; the published code's, not the 2-D autoencoder's own
)


@dataclasses.dataclass(frozen=True)
class OpenSoraVAEConfig:
    """`micro_frame_size` None: a video is one clip. `micro_batch_size`: frames the 2-D autoencoder
    works on at once, at most; fewer where they are large, for they are independent and only memory
    depends on it."""

    spatial: AutoencoderKLConfig = AutoencoderKLConfig()
    temporal: TemporalVAEConfig = TemporalVAEConfig()
    micro_frame_size: int | None = 17
    micro_batch_size: int | None = 4
    shift: tuple[float, ...] = (-0.10, 0.34, 0.27, 0.98)
    scale: tuple[float, ...] = (3.85, 2.32, 2.33, 3.06)

    @property
    def spatial_ratio(self) -> int:
        return self.spatial.spatial_ratio

    @property
    def latent_channels(self) -> int:
        return self.temporal.embed_dim

    def latent_frames(self, frames: int) -> int:
        clips = self.clips(frames)
        return sum(self.temporal.latent_frames(clip) for clip in clips)

    def frames_at_once(self, frames: int, pixels: int) -> int:
        """Of a video of `frames` frames of `pixels` pixels, for the 2-D autoencoder."""
        return min(self.micro_batch_size or frames, max(PIXELS // pixels, 1))

    def clips(self, frames: int) -> list[int]:
        """Lengths of the clips that a video of `frames` is cut into; the last one takes what is
        left."""
        size = self.micro_frame_size or frames
        return [size] * (frames // size) + [frames % size] * bool(frames % size)


class OpenSoraVAE(nn.Module):
    config: OpenSoraVAEConfig
    dtype: Any = jnp.float32
    conv_impl: ConvImpl = "auto"
    attention_fn: Callable = blockwise_attention

    def setup(self):
        config = self.config
        self.spatial = AutoencoderKL(config.spatial, self.dtype, self.attention_fn)
        self.temporal = TemporalVAE(config.temporal, self.dtype, self.conv_impl)
        # buffers of the original, [1, C, 1, 1, 1] there
        for name in ("scale", "shift"):
            values = jnp.asarray(getattr(config, name), jnp.float32).reshape(1, -1, 1, 1, 1)
            setattr(self, f"latent_{name}", self.param(f"latent_{name}", lambda _, v=values: v))

    def __call__(self, video: Float[Array, "B T H W 3"]) -> Array:
        """Reconstruction from the mean latent."""
        return self.decode(self.encode(video), video.shape[1])

    def encode(self, video: Float[Array, "B T H W 3"]) -> Float[Array, "B t h w C"]:
        """Video in [-1, 1] -> the mean latent as the denoiser sees it, float32."""
        count = self.config.frames_at_once(video.shape[1], video.shape[2] * video.shape[3])
        x = (
            over_frames(lambda model, frames: model.encode(frames)[0], self.spatial, video, count)
            * SPATIAL_SCALE
        )
        z = self._by_clips(
            lambda model, clip, frames: model.encode(clip)[0], x, x.shape[1], lambda frames: frames
        )
        return (z - self._channels("shift")) / self._channels("scale")

    def decode(self, z: Float[Array, "B t h w C"], frames: int) -> Float[Array, "B T H W 3"]:
        """The denoiser's latent -> `frames` frames in about [-1, 1] (not clipped), float32."""
        z = z * self._channels("scale") + self._channels("shift")
        x = self._by_clips(
            lambda model, clip, length: model.decode(clip, length),
            z,
            frames,
            self.config.temporal.latent_frames,
        )
        count = self.config.frames_at_once(
            frames, x.shape[2] * x.shape[3] * self.config.spatial_ratio**2
        )
        return over_frames(
            lambda model, pictures: model.decode(pictures), self.spatial, x / SPATIAL_SCALE, count
        )

    def _channels(self, name: str) -> Array:
        return getattr(self, f"latent_{name}").astype(jnp.float32).reshape(-1)

    def _by_clips(
        self, function: Callable, x: Array, frames: int, length: Callable[[int], int]
    ) -> Array:
        """`function` of the temporal autoencoder, clip by clip; clips of one length share one
        scanned body.

        Args:
          frames: of the video.
          length: frames of a clip -> frames of its part of `x`.
        """
        clips = self.config.clips(frames)
        full = [clip for clip in clips if clip == clips[0]]
        step = length(clips[0])
        whole, rest = x[:, : step * len(full)], x[:, step * len(full) :]
        if len(full) == 1:
            out = function(self.temporal, whole, clips[0])
        else:
            parts = jnp.moveaxis(whole.reshape(x.shape[0], len(full), step, *x.shape[2:]), 1, 0)
            scan = nn.scan(
                lambda model, carry, part: (carry, function(model, part, clips[0])),
                variable_broadcast="params",
                split_rngs={"params": False},
            )
            ys = jnp.moveaxis(scan(self.temporal, (), parts)[1], 0, 1)
            out = ys.reshape(x.shape[0], -1, *ys.shape[3:])
        if len(full) < len(clips):
            out = jnp.concatenate([out, function(self.temporal, rest, clips[-1])], axis=1)
        return out
