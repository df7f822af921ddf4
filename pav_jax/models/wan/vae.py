"""Wan 2.1's causal 3-D variational autoencoder, channels last.

A clip is processed in chunks: the first frame alone, then four frames (one latent frame) at a time;
each chunk passes the last two input frames of every temporal convolution to the next. Norms are per
pixel and attention is within a frame, so the chunks do not change the result; they bound the
memory. When decoding, the temporal resampling convolutions have zeros in place of the first frame.

Source: Wan Team 2025 (arXiv 2503.20314), section 4.1, and diffusers' `AutoencoderKLWan`.

Letters: B clips, T frames, H and W pixels, C channels; t, h, w the same axes in latent space.
"""

import functools
from typing import Any, cast

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from pav_jax.models.causal_conv import (
    TORCH_UNIFORM,
    Conv2d,
    ConvImpl,
    conv_fn,
    in_chunks,
    residual_blocks,
)
from pav_jax.models.wan.vae_config import WanVAEConfig

ENCODE_CHUNK = 4  # frames per chunk after the first frame
PAST = 2  # preceding frames that a temporal convolution reads
ZEROS = nn.initializers.zeros_init()


class CausalConv3d(nn.Module):
    """3-D convolution that depends on no later frame; before the first frame there are zeros."""

    features: int
    conv_impl: ConvImpl
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "B T H W C"], cache: Array | None) -> tuple[Array, Array]:
        """Return the convolved chunk, and the next chunk's cache: the last `PAST` input frames."""
        kernel = self.param("kernel", TORCH_UNIFORM, (PAST + 1, 3, 3, x.shape[-1], self.features))
        bias = self.param("bias", ZEROS, (self.features,))
        x = with_past(x.astype(self.dtype), cache)
        y = conv_fn(self.conv_impl)(x, kernel.astype(self.dtype))
        return y + bias.astype(self.dtype), x[:, -PAST:]


class Pointwise(nn.Module):
    """A 1x1x1 convolution; the kernel keeps the convolution's `rank` window axes."""

    features: int
    dtype: Any
    rank: int = 3

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (*(1,) * self.rank, x.shape[-1], self.features)
        kernel = self.param("kernel", TORCH_UNIFORM, shape)[(0,) * self.rank]
        bias = self.param("bias", ZEROS, (self.features,))
        return x.astype(self.dtype) @ kernel.astype(self.dtype) + bias.astype(self.dtype)


class TimeConv(nn.Module):
    """Convolution over three frames of each pixel, one matrix product per frame of the window."""

    features: int
    stride: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "B T H W C"]) -> Array:
        shape = (PAST + 1, 1, 1, x.shape[-1], self.features)
        kernel = self.param("kernel", TORCH_UNIFORM, shape).astype(self.dtype)
        bias = self.param("bias", ZEROS, (self.features,)).astype(self.dtype)
        stop = x.shape[1] - PAST
        y = x[:, : stop : self.stride] @ kernel[0, 0, 0]
        for k in range(1, PAST + 1):
            y = y + x[:, k : k + stop : self.stride] @ kernel[k, 0, 0]
        return y + bias


class Norm(nn.Module):
    """x / |x| * sqrt(C) * scale over channels, in float32.

    The scale has `rank` more axes of size one, as in the checkpoint.
    """

    rank: int = 3

    @nn.compact
    def __call__(self, x: Float[Array, "... C"]) -> Array:
        C = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (C, *(1,) * self.rank)).reshape(C)
        x32 = x.astype(jnp.float32)
        # the minimum of torch's normalize
        length = jnp.maximum(jnp.linalg.norm(x32, axis=-1, keepdims=True), 1e-12)
        return (x32 / length * C**0.5 * scale).astype(x.dtype)


class ResnetBlock(nn.Module):
    """Norm, activation, convolution, twice, plus the input."""

    features: int
    conv_impl: ConvImpl
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, cache: dict) -> tuple[Array, dict]:
        h = x
        new = {}
        for n in ("1", "2"):
            conv = CausalConv3d(self.features, self.conv_impl, self.dtype, name=f"conv{n}")
            h, new[f"conv{n}"] = conv(nn.silu(Norm(name=f"norm{n}")(h)), cache.get(f"conv{n}"))
        if x.shape[-1] != self.features:
            x = Pointwise(self.features, self.dtype, name="conv_shortcut")(x)
        return x + h, new


class FrameAttention(nn.Module):
    """Single-head self-attention over the pixels of each frame."""

    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        B, T, H, W, C = x.shape
        h = Norm(2, name="norm")(x).reshape(B * T, H * W, C)
        q, k, v = jnp.split(Pointwise(3 * C, self.dtype, 2, name="to_qkv")(h), 3, axis=-1)
        logits = jnp.einsum("bqc,bkc->bqk", q, k, preferred_element_type=jnp.float32) * C**-0.5
        h = jnp.einsum("bqk,bkc->bqc", nn.softmax(logits).astype(self.dtype), v)
        return x + Pointwise(C, self.dtype, 2, name="proj")(h).reshape(x.shape)


class Upsample(nn.Module):
    """Doubles height and width and halves the channels.

    Attributes:
      time: double the frames too, except for the clip's first.
    """

    time: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, cache: dict) -> tuple[Array, dict]:
        B, T, H, W, C = x.shape
        new = {}
        if self.time:
            padded = with_past(x, cache.get("time"))
            # On the clip's first frame the result is not used: the call declares the parameters.
            # Its cache is zeros.
            pairs = TimeConv(2 * C, 1, self.dtype, name="time_conv")(padded)
            past = padded[:, -PAST:]
            new["time"] = past if "time" in cache else jnp.zeros_like(past)
            if "time" in cache:
                pairs = jnp.moveaxis(pairs.reshape(B, T, H, W, 2, C), 4, 2)
                x = pairs.reshape(B, 2 * T, H, W, C)
        x = jnp.repeat(jnp.repeat(x, 2, axis=2), 2, axis=3)
        return Conv2d(C // 2, 1, ((1, 1), (1, 1)), self.dtype, name="conv")(x), new


class Downsample(nn.Module):
    """Halves height and width.

    Attributes:
      time: halve the frames too, except for the clip's first.
    """

    time: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, cache: dict) -> tuple[Array, dict]:
        C = x.shape[-1]
        # padded below and to the right only: the stride-2 grid starts at the first pixel
        x = Conv2d(C, 2, ((0, 1), (0, 1)), self.dtype, name="conv")(x)
        if not self.time:
            return x, {}
        last = x[:, -1:]
        padded = (
            jnp.concatenate([cache["time"], x], axis=1) if "time" in cache else with_past(x, None)
        )
        halved = TimeConv(C, 2, self.dtype, name="time_conv")(padded)
        return halved if "time" in cache else x, {"time": last}


def with_past(x: Array, cache: Array | None) -> Array:
    """Prepend the preceding frames, or zeros, to a chunk."""
    past = jnp.zeros((x.shape[0], PAST, *x.shape[2:]), x.dtype) if cache is None else cache
    return jnp.concatenate([past, x], axis=1)


class Coder(nn.Module):
    """The encoder ("down") or the decoder ("up") for one chunk; the first has an empty cache.

    Attributes:
      level: only that resolution, whose input is the preceding one's output; None: all.
    """

    config: WanVAEConfig
    direction: str
    conv_impl: ConvImpl
    dtype: Any
    level: int | None = None

    @nn.compact
    def __call__(self, x: Array, cache: dict) -> tuple[Array, dict]:
        config = self.config
        new = {}
        down = self.direction == "down"

        def run(name, module, h):
            h, new[name] = module(h, cache.get(name, {}))
            return h

        def conv(name, features, h):
            h, new[name] = CausalConv3d(features, self.conv_impl, self.dtype, name=name)(
                h, cache.get(name)
            )
            return h

        def resnet(name, features, h):
            return run(name, ResnetBlock(features, self.conv_impl, self.dtype, name=name), h)

        def middle(h):
            h = resnet("mid_resnets_0", h.shape[-1], h)
            return resnet(
                "mid_resnets_1", h.shape[-1], FrameAttention(self.dtype, name="mid_attention")(h)
            )

        widths = coder_widths(config, self.direction)
        last = len(config.dim_mult) - 1
        if self.level in (None, 0):
            x = conv("conv_in", widths[0], x)
            x = x if down else middle(x)
        times = config.temperal_downsample if down else config.temperal_downsample[::-1]
        resnets = config.num_res_blocks if down else config.num_res_blocks + 1
        resample = Downsample if down else Upsample
        for i in range(last + 1) if self.level is None else [self.level]:
            width = widths[1 + i] if down else widths[i]
            make = functools.partial(ResnetBlock, width, self.conv_impl, self.dtype)
            names = [f"blocks_{i}_resnets_{j}" for j in range(resnets)]
            name = f"blocks_{i}_resnets"
            x, new[name] = residual_blocks(self, make, names, x, cache.get(name, {}))
            if i < last:
                name = f"blocks_{i}_resample"
                x = run(name, resample(times[i], self.dtype, name=name), x)
        if self.level not in (None, last):
            return x, new
        x = middle(x) if down else x
        features = 2 * config.z_dim if down else config.out_channels
        return conv("conv_out", features, nn.silu(Norm(name="norm_out")(x))), new


def coder_widths(config: WanVAEConfig, direction: str) -> tuple[int, ...]:
    """Return the channels of each block; the encoder's first convolution comes before them."""
    if direction == "down":
        return tuple(config.base_dim * m for m in (1, *config.dim_mult))
    return tuple((config.decoder_base_dim or config.base_dim) * m for m in config.dim_mult[::-1])


class WanVAE(nn.Module):
    """The autoencoder.

    `model.init(key, video)` makes all parameters; then call
    `model.apply({"params": params}, video, method="encode")` or
    `model.apply({"params": params}, z, method="decode")`.

    Attributes:
      dtype: of the convolutions; norms are float32.
      conv_impl: see `causal_conv.ConvImpl`.
      unroll: no loop over the chunks (see `in_chunks`), for training on CPU.
    """

    config: WanVAEConfig
    dtype: Any = jnp.float32
    conv_impl: ConvImpl = "auto"
    unroll: bool = False

    def setup(self):
        """Create encoder, decoder and the pointwise quantization layers."""
        self.encoder = Coder(self.config, "down", self.conv_impl, self.dtype)
        self.decoder = Coder(self.config, "up", self.conv_impl, self.dtype)
        self.quant_conv = Pointwise(2 * self.config.z_dim, self.dtype)
        self.post_quant_conv = Pointwise(self.config.z_dim, self.dtype)

    def __call__(self, video: Float[Array, "B T H W 3"]) -> tuple[Array, Array, Array]:
        """Return the reconstruction from the mean latent, the mean and the log variance."""
        mean, logvar = self.encode(video)
        return self.decode(mean), mean, logvar

    def encode(self, video: Float[Array, "B T H W 3"]) -> tuple[Array, Array]:
        """Encode a video in [-1, 1].

        Args:
          video: H and W are multiples of `config.spatial_ratio`; as in diffusers, frames after the
            last whole chunk are dropped.

        Returns:
          Mean and log variance of the latent, both float32 [B, t, h, w, C], unscaled.
        """
        chunks = in_chunks(self.encoder, video.astype(self.dtype), 1, ENCODE_CHUNK, self.unroll)
        moments = self.quant_conv(chunks).astype(jnp.float32)
        mean, logvar = jnp.split(moments, 2, axis=-1)
        # the range of diffusers' DiagonalGaussianDistribution
        return mean, jnp.clip(logvar, -30.0, 20.0)

    def decode(self, z: Float[Array, "B t h w C"]) -> Float[Array, "B T H W 3"]:
        """Decode an unscaled latent to a float32 video in about [-1, 1].

        It is not clipped, so that non-finite values can be detected.
        """
        video = in_chunks(self.decoder, self.post_quant_conv(z), 1, 1, self.unroll)
        return video.astype(jnp.float32)

    def decode_level(self, x: Array, cache: dict, level: int) -> tuple[Array, dict]:
        """Decode one latent frame at one resolution; all of them after each other are `decode`.

        Args:
          x: the unscaled latent frame [B, 1, h, w, C], or the preceding level's output.
          cache: as returned for the preceding latent frame; empty for the clip's first one.
          level: the resolution, from 0.

        Returns:
          The next level's input, or float32 frames, and the next latent frame's cache.
        """
        x = x if level else self.post_quant_conv(x)
        decoder = self.decoder.clone(level=level, parent=None, name=None)
        variables = {"params": self.variables["params"]["decoder"]}
        x, cache = cast(tuple[Array, dict], decoder.apply(variables, x, cache))
        return x.astype(jnp.float32) if level == len(self.config.dim_mult) - 1 else x, cache
