"""Open-Sora 1.2's temporal autoencoder: compresses latents of the 2-D autoencoder in time by four.

A stack of causal 3-D convolutions after MAGVIT-v2 (Yu et al. 2023, arXiv 2310.05737, section 3.2),
with zeros before the first frame. Source: hpcaitech/Open-Sora, tag v1.2.0,
`opensora/models/vae/vae_temporal.py`. A clip whose length the ratio does not divide is padded with
zeros in front before encoding; as many frames are dropped after decoding.

Shapes: B clips, T frames, H, W height and width in the 2-D latent space, C channels; t latent
frames.
"""

import dataclasses
import functools
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from pav_jax.models.causal_conv import TORCH_UNIFORM, ConvImpl, GroupNorm, conv_fn, residual_blocks
from pav_jax.typed_fields import Depth, Widths

EPS = 1e-5  # torch's default for group norms


@dataclasses.dataclass(frozen=True)
class TemporalVAEConfig:
    """Configuration with the original's field names; defaults: `VAE_Temporal_SD`."""

    in_out_channels: int = 4
    latent_embed_dim: int = 4
    embed_dim: int = 4
    filters: int = 128
    num_res_blocks: Depth = 4
    channel_multipliers: Widths = (1, 2, 2, 4)
    temporal_downsample: tuple[bool, ...] = (False, True, True)
    num_groups: int = 32

    @property
    def ratio(self) -> int:
        """Frames per latent frame."""
        return 2 ** sum(self.temporal_downsample)

    def padding(self, frames: int) -> int:
        """Return how many frames of zeros make a clip of `frames` frames divisible by the ratio."""
        return -frames % self.ratio

    def latent_frames(self, frames: int) -> int:
        """Return the number of latent frames of a clip."""
        return -(-frames // self.ratio)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each block of the encoder."""
        return tuple(self.filters * multiplier for multiplier in self.channel_multipliers)


class CausalConv(nn.Module):
    """3-D convolution that depends on no later frame; before the first frame there are zeros.

    Attributes:
      size: of the window on each axis.
      stride: in time.
    """

    features: int
    size: int = 3
    stride: int = 1
    use_bias: bool = True
    conv_impl: ConvImpl = "auto"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B T H W C"]) -> Float[Array, "B t h w D"]:
        k = self.size
        shape = (k, k, k, x.shape[-1], self.features)
        kernel = self.param("kernel", TORCH_UNIFORM, shape).astype(self.dtype)
        past = k - self.stride
        x = jnp.pad(x.astype(self.dtype), ((0, 0), (past, 0), (0, 0), (0, 0), (0, 0)))
        convolve = conv_fn(self.conv_impl)
        y = x @ kernel[0, 0, 0] if k == 1 else convolve(x, kernel, self.stride)
        if self.use_bias:
            y += self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
        return y


class ResidualBlock(nn.Module):
    """Norm, activation, convolution, twice, plus the input; whole clips have no cache."""

    config: TemporalVAEConfig
    features: int
    conv_impl: ConvImpl
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, cache: dict) -> tuple[Array, dict]:
        def conv(name: str, x: Array, size: int = 3) -> Array:
            return CausalConv(
                self.features,
                size,
                use_bias=False,
                conv_impl=self.conv_impl,
                dtype=self.dtype,
                name=name,
            )(x)

        h = x
        for i in (1, 2):
            h = nn.silu(GroupNorm(self.config.num_groups, EPS, name=f"norm{i}")(h))
            h = conv(f"conv{i}", h)
        if x.shape[-1] != self.features:
            x = conv("conv3", x, size=1)
        return x + h, {}


class Coder(nn.Module):
    """The encoder ("down") or the decoder ("up")."""

    config: TemporalVAEConfig
    direction: str
    conv_impl: ConvImpl
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return self._encode(x) if self.direction == "down" else self._decode(x)

    def _encode(self, x: Array) -> Array:
        config = self.config
        widths = config.widths
        x = self._conv(widths[0], "conv_in", x, use_bias=False)
        for i, width in enumerate(widths):
            x = self._residuals(x, width, f"blocks_{i}")
            if i < len(widths) - 1 and config.temporal_downsample[i]:
                x = self._conv(width, f"sampler_{i}", x, stride=2)
        x = self._norm("norm_out", self._residuals(x, widths[-1], "middle"))
        return self._conv(2 * config.latent_embed_dim, "conv_out", x, size=1)

    def _decode(self, x: Array) -> Array:
        config = self.config
        widths = config.widths
        x = self._residuals(self._conv(widths[-1], "conv_in", x), widths[-1], "middle")
        for i in reversed(range(len(widths))):
            x = self._residuals(x, widths[i], f"blocks_{i}")
            if i and config.temporal_downsample[i - 1]:
                x = unfold_time(self._conv(2 * widths[i], f"sampler_{i - 1}", x))
        return self._conv(config.in_out_channels, "conv_out", self._norm("norm_out", x))

    def _conv(self, features: int, name: str, x: Array, size: int = 3, **options: Any) -> Array:
        conv_impl = self.conv_impl
        conv = CausalConv(
            features, size, conv_impl=conv_impl, dtype=self.dtype, name=name, **options
        )
        return conv(x)

    def _norm(self, name: str, x: Array) -> Array:
        return nn.silu(GroupNorm(self.config.num_groups, EPS, name=name)(x))

    def _residuals(self, x: Array, features: int, prefix: str) -> Array:
        make = functools.partial(ResidualBlock, self.config, features, self.conv_impl, self.dtype)
        names = [f"{prefix}_{j}" for j in range(self.config.num_res_blocks)]
        return residual_blocks(self, make, names, x, {})[0]


def unfold_time(x: Float[Array, "B T H W D"]) -> Float[Array, "B t H W C"]:
    """Make channels 2c and 2c + 1 channel c of two consecutive frames."""
    b, t, h, w, c = x.shape
    return jnp.moveaxis(x.reshape(b, t, h, w, c // 2, 2), 5, 2).reshape(b, 2 * t, h, w, c // 2)


class TemporalVAE(nn.Module):
    """The autoencoder of one clip; `OpenSoraVAE` divides videos into clips."""

    config: TemporalVAEConfig
    dtype: Any = jnp.float32
    conv_impl: ConvImpl = "auto"

    def setup(self):
        """Create encoder, decoder and the pointwise causal quantization convolutions."""
        config = self.config
        self.encoder = Coder(config, "down", self.conv_impl, self.dtype)
        self.decoder = Coder(config, "up", self.conv_impl, self.dtype)
        self.quant_conv = CausalConv(2 * config.embed_dim, 1, dtype=self.dtype)
        self.post_quant_conv = CausalConv(config.latent_embed_dim, 1, dtype=self.dtype)

    def __call__(self, x: Float[Array, "B T H W C"]) -> Array:
        """Return the reconstruction from the mean latent."""
        return self.decode(self.encode(x)[0], x.shape[1])

    def encode(self, x: Float[Array, "B T H W C"]) -> tuple[Array, Array]:
        """Return mean and log variance of the latent, both float32 [B, t, H, W, C]."""
        x = jnp.pad(x, ((0, 0), (self.config.padding(x.shape[1]), 0), (0, 0), (0, 0), (0, 0)))
        mean, logvar = jnp.split(self.quant_conv(self.encoder(x)).astype(jnp.float32), 2, axis=-1)
        return mean, jnp.clip(logvar, -30.0, 20.0)

    def decode(self, z: Float[Array, "B t H W C"], frames: int) -> Float[Array, "B T H W C"]:
        """Decode a latent, float32.

        Args:
          frames: of the clip, from ratio * (t - 1) + 1 to ratio * t.
        """
        x = self.decoder(self.post_quant_conv(z))
        return x[:, self.config.padding(frames) :].astype(jnp.float32)
