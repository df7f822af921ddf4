"""Layers of Wan's autoencoders, channels last, each for one chunk of a clip.

Source: Wan Team 2025 (arXiv 2503.20314), section 4.1, and diffusers' `AutoencoderKLWan`.

Letters: B clips, T frames, H and W pixels, C channels.
"""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from pav_jax.models.causal_conv import TORCH_UNIFORM, Conv2d, ConvImpl, conv_fn

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
    """Doubles height and width.

    Attributes:
      features: channels of the result.
      time: double the frames too, except for the clip's first.
    """

    features: int
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
        return Conv2d(self.features, 1, ((1, 1), (1, 1)), self.dtype, name="conv")(x), new


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
