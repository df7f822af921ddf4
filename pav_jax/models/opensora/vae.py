"""Open-Sora's VAE 1.2: a 2-D autoencoder per frame, then a temporal one per clip of 17 frames.

The clips ("micro frames") are independent, so their length is part of the model's definition: 17
frames become 5 latent frames, 51 become 15. Source: hpcaitech/Open-Sora, tag v1.2.0,
`opensora/models/vae/vae.py`.

Shapes: B videos, T, H, W their frames and pixels; t, h, w the same axes in latent space, C
channels.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from pav_jax.models.attention.blockwise import blockwise_attention
from pav_jax.models.causal_conv import ConvImpl, per_frame
from pav_jax.models.opensora.vae_spatial import AutoencoderKL, AutoencoderKLConfig, over_frames
from pav_jax.models.opensora.vae_temporal import TemporalVAE, TemporalVAEConfig
from pav_jax.typed_fields import Positive

# Pixels that the 2-D autoencoder processes at once: two frames of 480p or one of 720p, which take 3
# to 4 GiB in bfloat16.
MAX_PIXELS = 1_000_000
# scale between the two autoencoders, from the published code; the 2-D autoencoder's own differs
SPATIAL_SCALE = 0.18215


@dataclasses.dataclass(frozen=True)
class OpenSoraVAEConfig:
    """Configuration with the published field names; defaults: OpenSora-VAE-v1.2.

    Attributes:
      micro_frame_size: frames of a clip; None: a video is one clip.
      micro_batch_size: most frames that the 2-D autoencoder processes at once; fewer if they are
        large. The result does not depend on it.
      shift, scale: of the latent channels, for the denoiser.
    """

    spatial: AutoencoderKLConfig = AutoencoderKLConfig()
    temporal: TemporalVAEConfig = TemporalVAEConfig()
    micro_frame_size: int | None = 17
    micro_batch_size: int | None = 4
    shift: tuple[float, ...] = (-0.10, 0.34, 0.27, 0.98)
    scale: tuple[Positive, ...] = (3.85, 2.32, 2.33, 3.06)

    @property
    def spatial_ratio(self) -> int:
        """Pixels per latent row and column."""
        return self.spatial.spatial_ratio

    @property
    def latent_channels(self) -> int:
        """Channels of the latent."""
        return self.temporal.embed_dim

    def latent_frames(self, frames: int) -> int:
        """Return the number of latent frames of a video of `frames` frames."""
        return sum(self.temporal.latent_frames(clip) for clip in self.clips(frames))

    def frames_at_once(self, frames: int, pixels: int) -> int:
        """Return how many frames of a video the 2-D autoencoder processes at once.

        Args:
          frames: of the video.
          pixels: of a frame.
        """
        return min(self.micro_batch_size or frames, max(MAX_PIXELS // pixels, 1))

    def clips(self, frames: int) -> list[int]:
        """Return the lengths of a video's clips; the last one may be shorter."""
        size = self.micro_frame_size or frames
        count, remainder = divmod(frames, size)
        return [size] * count + ([remainder] if remainder else [])


class OpenSoraVAE(nn.Module):
    """Both autoencoders.

    Attributes:
      dtype: of the convolutions; norms are float32.
      conv_impl: see `causal_conv.ConvImpl`.
      attention_fn: of the 2-D autoencoder, over the pixels of a latent frame.
    """

    config: OpenSoraVAEConfig
    dtype: Any = jnp.float32
    conv_impl: ConvImpl = "auto"
    attention_fn: Callable = blockwise_attention

    def setup(self):
        """Create the 2-D and the temporal autoencoder, and the scale and shift of the latent."""
        config = self.config
        self.spatial = AutoencoderKL(config.spatial, self.dtype, self.conv_impl, self.attention_fn)
        self.temporal = TemporalVAE(config.temporal, self.dtype, self.conv_impl)
        # buffers of the original, whose shape [1, C, 1, 1, 1] they keep
        for name in ("scale", "shift"):
            values = jnp.asarray(getattr(config, name), jnp.float32).reshape(1, -1, 1, 1, 1)
            setattr(self, f"latent_{name}", self.param(f"latent_{name}", lambda _, v=values: v))

    def __call__(self, video: Float[Array, "B T H W 3"]) -> Array:
        """Return the reconstruction from the mean latent."""
        return self.decode(self.encode(video), video.shape[1])

    def encode(self, video: Float[Array, "B T H W 3"]) -> Float[Array, "B t h w C"]:
        """Encode a video in [-1, 1] to the mean latent, float32, scaled for the denoiser."""

        def encode_frames(model: AutoencoderKL, frames: Array) -> Array:
            return model.encode(frames)[0]

        def encode_clip(model: TemporalVAE, clip: Array, length: int) -> Array:
            return model.encode(clip)[0]

        _, frames, height, width, _ = video.shape
        count = self.config.frames_at_once(frames, height * width)
        x = over_frames(encode_frames, self.spatial, video, count) * SPATIAL_SCALE
        clips = self.config.clips(frames)
        z = self._over_clips(encode_clip, x, clips, clips)
        return (z - self._channels("shift")) / self._channels("scale")

    def decode(self, z: Float[Array, "B t h w C"], frames: int) -> Float[Array, "B T H W 3"]:
        """Decode the denoiser's latent to a float32 video in about [-1, 1] (not clipped).

        Args:
          frames: of the video.
        """

        def decode_clip(model: TemporalVAE, clip: Array, length: int) -> Array:
            return model.decode(clip, length)

        def decode_frames(model: AutoencoderKL, frames: Array) -> Array:
            return model.decode(frames)

        clips = self.config.clips(frames)
        latent_clips = [self.config.temporal.latent_frames(clip) for clip in clips]
        x = self._over_clips(decode_clip, self._unscale(z), clips, latent_clips) / SPATIAL_SCALE
        pixels = x.shape[2] * x.shape[3] * self.config.spatial_ratio**2
        return over_frames(
            decode_frames, self.spatial, x, self.config.frames_at_once(frames, pixels)
        )

    def decode_clip(self, z: Float[Array, "B t h w C"], frames: int) -> Float[Array, "B T h w C"]:
        """Decode one clip in time, to the latent of `decode_frames`.

        Args:
          frames: of the clip.
        """
        return self.temporal.decode(self._unscale(z), frames) / SPATIAL_SCALE

    def decode_frames(self, x: Float[Array, "B T h w C"]) -> Float[Array, "B T H W 3"]:
        """Decode frames in space, all at once."""
        return per_frame(self.spatial.decode, x)

    def _unscale(self, z: Array) -> Array:
        return z * self._channels("scale") + self._channels("shift")

    def _channels(self, name: str) -> Array:
        return getattr(self, f"latent_{name}").astype(jnp.float32).reshape(-1)

    def _over_clips(
        self,
        function: Callable[[TemporalVAE, Array, int], Array],
        x: Array,
        clips: Sequence[int],
        lengths: Sequence[int],
    ) -> Array:
        """Apply `function` to each clip; clips of equal length share one scanned body.

        Args:
          function: (temporal autoencoder, clip, frames of the clip in the video) -> output.
          clips: frames of each clip in the video.
          lengths: frames of each clip in `x`.
        """
        full = sum(clip == clips[0] for clip in clips)
        split = lengths[0] * full
        whole = x[:, :split]
        if full == 1:
            out = function(self.temporal, whole, clips[0])
        else:
            parts = jnp.moveaxis(whole.reshape(x.shape[0], full, lengths[0], *x.shape[2:]), 1, 0)

            def body(model: TemporalVAE, carry: tuple, part: Array) -> tuple[tuple, Array]:
                return carry, function(model, part, clips[0])

            scan = nn.scan(body, variable_broadcast="params", split_rngs={"params": False})
            _, ys = scan(self.temporal, (), parts)
            ys = jnp.moveaxis(ys, 0, 1)
            out = ys.reshape(x.shape[0], -1, *ys.shape[3:])
        if full < len(clips):
            rest = function(self.temporal, x[:, split:], clips[-1])
            out = jnp.concatenate([out, rest], axis=1)
        return out
