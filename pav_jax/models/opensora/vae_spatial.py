"""The 2-D variational autoencoder of Stable Diffusion, channels last.

Sources: Rombach et al. 2022 (arXiv 2112.10752), appendix G; diffusers' `AutoencoderKL`. Images are
independent of each other, so a video is processed a few frames at a time.

Shapes: N images, H, W their pixels, C channels; h, w the same axes in latent space; B videos of T
frames.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from pav_jax.models.attention.blockwise import blockwise_attention
from pav_jax.models.causal_conv import ConvImpl, GroupNorm, residual_blocks
from pav_jax.typed_fields import Depth, Widths

EPS = 1e-6  # of every norm


@dataclasses.dataclass(frozen=True)
class AutoencoderKLConfig:
    """Configuration with diffusers' field names; defaults: SDXL and PixArt-Sigma."""

    in_channels: int = 3
    out_channels: int = 3
    block_out_channels: Widths = (128, 256, 512, 512)
    layers_per_block: Depth = 2
    latent_channels: int = 4
    norm_num_groups: int = 32

    @property
    def spatial_ratio(self) -> int:
        """Pixels per latent row and column."""
        return 2 ** (len(self.block_out_channels) - 1)


def conv(
    features: int, dtype: Any, name: str | None = None, size: int = 3, stride: int = 1
) -> nn.Conv:
    """Return a convolution with "same" padding.

    With stride 2 it pads below and to the right only: its grid starts at the first pixel.
    """
    before = 0 if stride == 2 else size // 2
    after = 1 if stride == 2 else size // 2
    padding = [(before, after)] * 2
    return nn.Conv(features, (size, size), (stride, stride), padding, dtype=dtype, name=name)


def norm(groups: int, x_NxHxWxC: Array, name: str) -> Array:
    """Apply a group norm to each image, as a clip of one frame."""
    return GroupNorm(groups, EPS, name=name)(x_NxHxWxC[:, None])[:, 0]


class ResnetBlock(nn.Module):
    """Norm, activation, convolution, twice, plus the input; images have no cache."""

    config: AutoencoderKLConfig
    features: int
    conv_impl: ConvImpl
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, cache: dict) -> tuple[Array, dict]:
        h = x
        for i in (1, 2):
            h = nn.silu(norm(self.config.norm_num_groups, h, f"norm{i}"))
            h = conv(self.features, self.dtype, f"conv{i}")(h)
        if x.shape[-1] != self.features:
            x = conv(self.features, self.dtype, "conv_shortcut", size=1)(x)
        return x + h, {}


class AttentionBlock(nn.Module):
    """Single-head self-attention over the pixels of an image, plus the input."""

    config: AutoencoderKLConfig
    dtype: Any
    attention_fn: Callable

    @nn.compact
    def __call__(self, x_NxHxWxC: Array) -> Array:
        n, h, w, channels = x_NxHxWxC.shape
        normed = norm(self.config.norm_num_groups, x_NxHxWxC, "group_norm")
        normed = normed.reshape(n, h * w, channels)
        q, k, v = (
            nn.Dense(channels, dtype=self.dtype, name=name)(normed)[:, :, None, :]
            for name in ("to_q", "to_k", "to_v")
        )
        out = self.attention_fn(q, k, v)[:, :, 0]
        out = nn.Dense(channels, dtype=self.dtype, name="to_out")(out)
        return x_NxHxWxC + out.reshape(x_NxHxWxC.shape)


class Coder(nn.Module):
    """The encoder ("down") or the decoder ("up")."""

    config: AutoencoderKLConfig
    direction: str
    conv_impl: ConvImpl
    dtype: Any
    attention_fn: Callable

    @nn.compact
    def __call__(self, x: Array) -> Array:
        config = self.config
        down = self.direction == "down"
        widths = config.block_out_channels if down else config.block_out_channels[::-1]
        layers = config.layers_per_block if down else config.layers_per_block + 1

        def resnets(x: Array, features: int, names: Sequence[str]) -> Array:
            make = functools.partial(ResnetBlock, config, features, self.conv_impl, self.dtype)
            return residual_blocks(self, make, names, x, {})[0]

        def middle(x: Array) -> Array:
            x = resnets(x, x.shape[-1], ["mid_resnets_0"])
            x = AttentionBlock(config, self.dtype, self.attention_fn, name="mid_attention")(x)
            return resnets(x, x.shape[-1], ["mid_resnets_1"])

        x = conv(widths[0], self.dtype, "conv_in")(x)
        x = x if down else middle(x)
        for i, width in enumerate(widths):
            x = resnets(x, width, [f"blocks_{i}_resnets_{j}" for j in range(layers)])
            if i < len(widths) - 1:
                if not down:
                    x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
                x = conv(width, self.dtype, f"blocks_{i}_sampler", stride=2 if down else 1)(x)
        x = middle(x) if down else x
        x = nn.silu(norm(config.norm_num_groups, x, "norm_out"))
        features = 2 * config.latent_channels if down else config.out_channels
        return conv(features, self.dtype, "conv_out")(x)


class AutoencoderKL(nn.Module):
    """The autoencoder of images.

    Call `model.apply({"params": params}, images, method="encode")` or
    `model.apply({"params": params}, z, method="decode")`.
    """

    config: AutoencoderKLConfig
    dtype: Any = jnp.float32
    conv_impl: ConvImpl = "auto"
    attention_fn: Callable = blockwise_attention

    def setup(self):
        """Create encoder, decoder and the 1 x 1 quantization convolutions."""
        config = self.config
        self.encoder = Coder(config, "down", self.conv_impl, self.dtype, self.attention_fn)
        self.decoder = Coder(config, "up", self.conv_impl, self.dtype, self.attention_fn)
        self.quant_conv = conv(2 * config.latent_channels, self.dtype, size=1)
        self.post_quant_conv = conv(config.latent_channels, self.dtype, size=1)

    def __call__(self, images: Float[Array, "N H W 3"]) -> Array:
        """Return the reconstruction from the mean latent."""
        return self.decode(self.encode(images)[0])

    def encode(self, images: Float[Array, "N H W 3"]) -> tuple[Array, Array]:
        """Encode images in [-1, 1].

        Returns:
          Mean and log variance of the latent, both float32 [N, h, w, C], unscaled.
        """
        moments = self.quant_conv(self.encoder(images.astype(self.dtype))).astype(jnp.float32)
        mean, logvar = jnp.split(moments, 2, axis=-1)
        # the range of diffusers' DiagonalGaussianDistribution
        return mean, jnp.clip(logvar, -30.0, 20.0)

    def decode(self, z: Float[Array, "N h w C"]) -> Float[Array, "N H W 3"]:
        """Decode an unscaled latent to float32 images in about [-1, 1] (not clipped)."""
        return self.decoder(self.post_quant_conv(z.astype(self.dtype))).astype(jnp.float32)


def over_frames(
    function: Callable[[Any, Array], Array], module: nn.Module, x_BxTxHxWxC: Array, count: int
) -> Array:
    """Apply an image function to every frame, to `count` frames of each video at a time.

    Args:
      function: (module, images [N, H, W, C]) -> images.
    """
    batch, frames, *rest = x_BxTxHxWxC.shape

    def apply(module: nn.Module, x: Array) -> Array:
        y = function(module, x.reshape(-1, *rest))
        return y.reshape(batch, -1, *y.shape[1:])

    def body(module: nn.Module, carry: tuple, x: Array) -> tuple[tuple, Array]:
        return carry, apply(module, x)

    if frames <= count:
        return apply(module, x_BxTxHxWxC)
    steps = -(-frames // count)
    x = jnp.pad(x_BxTxHxWxC, [(0, 0), (0, steps * count - frames), *((0, 0),) * len(rest)])
    x = jnp.moveaxis(x.reshape(batch, steps, count, *rest), 1, 0)
    scan = nn.scan(body, variable_broadcast="params", split_rngs={"params": False})
    _, y = scan(module, (), x)
    y = jnp.moveaxis(y, 0, 1)
    return y.reshape(batch, steps * count, *y.shape[3:])[:, :frames]
