"""The 2-D variational autoencoder of Stable Diffusion (diffusers' `AutoencoderKL`) in Flax,
channels last.

Sources: Rombach et al. 2022 (arXiv 2112.10752), appendix G; the arithmetic is that of diffusers'
AutoencoderKL. Pictures are independent of each other, so a video is decoded a few frames at a time.

Shapes: N pictures, H, W their pixels, C channels; h, w the same axes in latent space.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from pav_jax.models.attention.blockwise import blockwise_attention
from pav_jax.models.causal_conv import GroupNorm

EPS = 1e-6  # of every norm


@dataclasses.dataclass(frozen=True)
class AutoencoderKLConfig:
    """Sizes under diffusers' names; the defaults are those of the SDXL and PixArt-Sigma
    autoencoder."""

    in_channels: int = 3
    out_channels: int = 3
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    latent_channels: int = 4
    norm_num_groups: int = 32

    @property
    def spatial_ratio(self) -> int:
        return 2 ** (len(self.block_out_channels) - 1)


def conv(features: int, dtype: Any, name: str, size: int = 3, stride: int = 1) -> nn.Conv:
    # Padded below and to the right only where it halves, as the stride-2 grid starts at the first
    # pixel.
    padding = ((0, 1), (0, 1)) if stride == 2 else ((size // 2,) * 2,) * 2
    return nn.Conv(features, (size, size), (stride, stride), padding, dtype=dtype, name=name)


def norm(groups: int, x_NxHxWxC: Array, name: str) -> Array:
    """Group norm of each picture; it is a clip of one frame."""
    return GroupNorm(groups, EPS, name=name)(x_NxHxWxC[:, None])[:, 0]


class ResnetBlock(nn.Module):
    config: AutoencoderKLConfig
    features: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        h = x
        for i in (1, 2):
            h = nn.silu(norm(self.config.norm_num_groups, h, f"norm{i}"))
            h = conv(self.features, self.dtype, f"conv{i}")(h)
        if x.shape[-1] != self.features:
            x = conv(self.features, self.dtype, "conv_shortcut", size=1)(x)
        return x + h


class AttentionBlock(nn.Module):
    """One head over all places of a picture."""

    config: AutoencoderKLConfig
    dtype: Any
    attention_fn: Callable

    @nn.compact
    def __call__(self, x_NxHxWxC: Array) -> Array:
        n, h, w, channels = x_NxHxWxC.shape
        normed = norm(self.config.norm_num_groups, x_NxHxWxC, "group_norm").reshape(
            n, h * w, channels
        )
        dense = lambda name, x: nn.Dense(channels, dtype=self.dtype, name=name)(x)  # noqa: E731
        q, k, v = (dense(name, normed)[:, :, None, :] for name in ("to_q", "to_k", "to_v"))
        return x_NxHxWxC + dense("to_out", self.attention_fn(q, k, v)[:, :, 0]).reshape(
            x_NxHxWxC.shape
        )


class Coder(nn.Module):
    """The encoder ("down") or the decoder ("up")."""

    config: AutoencoderKLConfig
    direction: str
    dtype: Any
    attention_fn: Callable

    @nn.compact
    def __call__(self, x: Array) -> Array:
        config, down = self.config, self.direction == "down"
        resnet = lambda features, name: ResnetBlock(config, features, self.dtype, name=name)  # noqa: E731
        widths = config.block_out_channels if down else config.block_out_channels[::-1]

        def middle(x):
            x = resnet(x.shape[-1], "mid_resnets_0")(x)
            x = AttentionBlock(config, self.dtype, self.attention_fn, name="mid_attention")(x)
            return resnet(x.shape[-1], "mid_resnets_1")(x)

        x = conv(widths[0], self.dtype, "conv_in")(x)
        x = x if down else middle(x)
        for i, width in enumerate(widths):
            for j in range(config.layers_per_block + (0 if down else 1)):
                x = resnet(width, f"blocks_{i}_resnets_{j}")(x)
            if i < len(widths) - 1:
                if not down:
                    x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
                x = conv(width, self.dtype, f"blocks_{i}_sampler", stride=2 if down else 1)(x)
        x = middle(x) if down else x
        x = nn.silu(norm(config.norm_num_groups, x, "norm_out"))
        return conv(
            2 * config.latent_channels if down else config.out_channels, self.dtype, "conv_out"
        )(x)


class AutoencoderKL(nn.Module):
    """`model.apply({"params": p}, pictures, method="encode")`,
    `model.apply({"params": p}, z, method="decode")`."""

    config: AutoencoderKLConfig
    dtype: Any = jnp.float32
    attention_fn: Callable = blockwise_attention

    def setup(self):
        config = self.config
        self.encoder = Coder(config, "down", self.dtype, self.attention_fn)
        self.decoder = Coder(config, "up", self.dtype, self.attention_fn)
        self.quant_conv = conv(2 * config.latent_channels, self.dtype, None, size=1)
        self.post_quant_conv = conv(config.latent_channels, self.dtype, None, size=1)

    def __call__(self, pictures: Float[Array, "N H W 3"]) -> Array:
        return self.decode(self.encode(pictures)[0])

    def encode(self, pictures: Float[Array, "N H W 3"]) -> tuple[Array, Array]:
        """Pictures in [-1, 1] -> mean and log variance of the latent, both float32 [N, h, w, C],
        unscaled."""
        moments = self.quant_conv(self.encoder(pictures.astype(self.dtype))).astype(jnp.float32)
        mean, logvar = jnp.split(moments, 2, axis=-1)
        return mean, jnp.clip(
            logvar, -30.0, 20.0
        )  # the range diffusers' DiagonalGaussianDistribution keeps

    def decode(self, z: Float[Array, "N h w C"]) -> Float[Array, "N H W 3"]:
        """Unscaled latent -> pictures in about [-1, 1] (not clipped), float32."""
        return self.decoder(self.post_quant_conv(z.astype(self.dtype))).astype(jnp.float32)


def over_frames(
    function: Callable[[nn.Module, Array], Array], module: nn.Module, x_BxTxHxWxC: Array, count: int
) -> Array:
    """A picture function of `module` applied to every frame, `count` frames of each video at a
    time."""
    batch, frames, *rest = x_BxTxHxWxC.shape

    def group(module, x_BxGxHxWxC):
        y = function(module, x_BxGxHxWxC.reshape(-1, *rest))
        return y.reshape(batch, -1, *y.shape[1:])

    if frames <= count:
        return group(module, x_BxTxHxWxC)
    steps = -(-frames // count)
    x = jnp.pad(x_BxTxHxWxC, [(0, 0), (0, steps * count - frames), *((0, 0),) * len(rest)])
    x = jnp.moveaxis(x.reshape(batch, steps, count, *rest), 1, 0)
    scan = nn.scan(
        lambda module, carry, x: (carry, group(module, x)),
        variable_broadcast="params",
        split_rngs={"params": False},
    )
    y = jnp.moveaxis(scan(module, (), x)[1], 0, 1)
    return y.reshape(batch, steps * count, *y.shape[3:])[:, :frames]
