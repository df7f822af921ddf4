"""Open-Sora 1.2's temporal autoencoder: it compresses the latents of the 2-D autoencoder in time
only, by four.

A stack of causal 3-D convolutions after MAGVIT-v2 (Yu et al. 2023, arXiv 2310.05737, section 3.2),
zeros before the first frame. The arithmetic is that of hpcaitech/Open-Sora, tag v1.2.0,
`opensora/models/vae/vae_temporal.py`. A clip whose length the compression does not divide gets
zeros in front when encoded, and loses as many frames when decoded.

Shapes: B clips, T frames, H, W places, C channels; t latent frames.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from pav_jax.models.causal_conv import ConvImpl, GroupNorm, conv2d, per_frame, resolve

EPS = 1e-5  # torch's own default for a group norm


@dataclasses.dataclass(frozen=True)
class TemporalVAEConfig:
    """Sizes under the names of the original; the defaults are those of OpenSora-VAE-v1.2
    (`VAE_Temporal_SD`)."""

    in_out_channels: int = 4
    latent_embed_dim: int = 4
    embed_dim: int = 4
    filters: int = 128
    num_res_blocks: int = 4
    channel_multipliers: tuple[int, ...] = (1, 2, 2, 4)
    temporal_downsample: tuple[bool, ...] = (False, True, True)
    num_groups: int = 32

    @property
    def ratio(self) -> int:
        return 2 ** sum(self.temporal_downsample)

    def padding(self, frames: int) -> int:
        """Frames of zeros in front of a clip of `frames`, that the ratio divides it."""
        return -frames % self.ratio

    def latent_frames(self, frames: int) -> int:
        return -(-frames // self.ratio)

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(self.filters * multiplier for multiplier in self.channel_multipliers)


class CausalConv(nn.Module):
    """3-D convolution that sees the past only, the past of the first frame being zeros. `stride` is
    in time."""

    features: int
    size: int = 3
    stride: int = 1
    use_bias: bool = True
    conv_impl: ConvImpl = "auto"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B T H W C"]) -> Float[Array, "B T H W D"]:
        k, stride = self.size, self.stride
        kernel = self.param(
            "kernel",
            nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
            (k, k, k, x.shape[-1], self.features),
        ).astype(self.dtype)
        x = jnp.pad(x.astype(self.dtype), ((0, 0), (k - stride, 0), (0, 0), (0, 0), (0, 0)))
        pads = ((k // 2,) * 2,) * 2
        if k == 1:
            y = x @ kernel[0, 0, 0]
        elif resolve(self.conv_impl) == "conv3d":
            y = lax.conv_general_dilated(
                x,
                kernel,
                (stride, 1, 1),
                ((0, 0), *pads),
                dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
            )
        else:  # one 2-D convolution per time tap
            frames = (x.shape[1] - k) // stride + 1
            taps = (x[:, i : i + stride * (frames - 1) + 1 : stride] for i in range(k))
            y = sum(
                per_frame(lambda f, w=kernel[i]: conv2d(f, w, padding=pads), tap)
                for i, tap in enumerate(taps)
            )
        if self.use_bias:
            y += self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
        return y


class Coder(nn.Module):
    """The encoder ("down") or the decoder ("up")."""

    config: TemporalVAEConfig
    direction: str
    conv_impl: ConvImpl
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        config, widths, down = self.config, self.config.widths, self.direction == "down"
        levels = len(widths)

        def conv(features, name, x, size=3, **options):
            return CausalConv(
                features, size, conv_impl=self.conv_impl, dtype=self.dtype, name=name, **options
            )(x)

        def norm(name, x):
            return nn.silu(GroupNorm(config.num_groups, EPS, name=name)(x))

        def residuals(x, features, prefix):
            for j in range(config.num_res_blocks):
                name = f"{prefix}_{j}"
                h = conv(features, f"{name}_conv1", norm(f"{name}_norm1", x), use_bias=False)
                h = conv(features, f"{name}_conv2", norm(f"{name}_norm2", h), use_bias=False)
                if x.shape[-1] != features:
                    x = conv(features, f"{name}_conv3", x, size=1, use_bias=False)
                x = x + h
            return x

        if down:
            x = conv(widths[0], "conv_in", x, use_bias=False)
            for i, width in enumerate(widths):
                x = residuals(x, width, f"blocks_{i}")
                if i < levels - 1 and config.temporal_downsample[i]:
                    x = conv(width, f"sampler_{i}", x, stride=2)
            x = norm("norm_out", residuals(x, widths[-1], "middle"))
            return conv(2 * config.latent_embed_dim, "conv_out", x, size=1)

        x = residuals(conv(widths[-1], "conv_in", x), widths[-1], "middle")
        for i in reversed(range(levels)):
            x = residuals(x, widths[i], f"blocks_{i}")
            if i and config.temporal_downsample[i - 1]:
                x = unfold_time(conv(2 * widths[i], f"sampler_{i - 1}", x))
        return conv(config.in_out_channels, "conv_out", norm("norm_out", x))


def unfold_time(x: Float[Array, "B T H W 2C"]) -> Float[Array, "B 2T H W C"]:
    """Channels 2c and 2c + 1 become channel c of two frames that follow each other."""
    b, t, h, w, c = x.shape
    return jnp.moveaxis(x.reshape(b, t, h, w, c // 2, 2), 5, 2).reshape(b, 2 * t, h, w, c // 2)


class TemporalVAE(nn.Module):
    """Of one clip; `OpenSoraVAE` cuts videos into clips."""

    config: TemporalVAEConfig
    dtype: Any = jnp.float32
    conv_impl: ConvImpl = "auto"  # "auto": "conv2d_taps" on a CPU, "conv3d" elsewhere

    def setup(self):
        config = self.config
        self.encoder = Coder(config, "down", self.conv_impl, self.dtype)
        self.decoder = Coder(config, "up", self.conv_impl, self.dtype)
        self.quant_conv = CausalConv(2 * config.embed_dim, 1, dtype=self.dtype)
        self.post_quant_conv = CausalConv(config.latent_embed_dim, 1, dtype=self.dtype)

    def __call__(self, x: Float[Array, "B T H W C"]) -> Array:
        return self.decode(self.encode(x)[0], x.shape[1])

    def encode(self, x: Float[Array, "B T H W C"]) -> tuple[Array, Array]:
        """Mean and log variance of the latent, both float32 [B, t, H, W, C]."""
        x = jnp.pad(x, ((0, 0), (self.config.padding(x.shape[1]), 0), (0, 0), (0, 0), (0, 0)))
        mean, logvar = jnp.split(self.quant_conv(self.encoder(x)).astype(jnp.float32), 2, axis=-1)
        return mean, jnp.clip(logvar, -30.0, 20.0)

    def decode(self, z: Float[Array, "B t H W C"], frames: int) -> Float[Array, "B T H W C"]:
        """`frames`: of the clip; one of `ratio * t - 3` to `ratio * t` where the ratio is 4."""
        return self.decoder(self.post_quant_conv(z))[:, self.config.padding(frames) :].astype(
            jnp.float32
        )
