"""Layers of video autoencoders: causal 3-D convolution in temporal chunks, 2-D convolution, norm.

Letters: B clips, T frames, N images, H and W pixels, C channels; t, h, w the same axes in latent
space.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

# "conv3d": XLA's 3-D convolution, fast on accelerators; "conv2d_taps": one 2-D convolution per time
# tap, fast on CPU; "auto": by platform
ConvImpl = Literal["auto", "conv3d", "conv2d_taps"]

# torch's default: uniform within 1 / sqrt(fan_in)
TORCH_UNIFORM = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def conv2d(
    x_NxHxWxC: Array, kernel: Array, stride: int = 1, padding: Any = ((1, 1), (1, 1))
) -> Array:
    """Convolve images with `kernel` [h, w, in, out]."""
    return lax.conv_general_dilated(
        x_NxHxWxC, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def per_frame(function: Callable[[Array], Array], x_BxTxHxWxC: Array) -> Array:
    """Apply a function of images [N, H, W, C] to every frame of the clips."""
    B, T = x_BxTxHxWxC.shape[:2]
    y = function(x_BxTxHxWxC.reshape(B * T, *x_BxTxHxWxC.shape[2:]))
    return y.reshape(B, T, *y.shape[1:])


def _same_padding(window: Sequence[int]) -> list[tuple[int, int]]:
    return [((k - 1) // 2, (k - 1) // 2) for k in window]


def conv3d(x: Array, kernel: Array, time_stride: int = 1) -> Array:
    """Convolve clips as one XLA operation; no padding in time, "same" padding in space."""
    padding = ((0, 0), *_same_padding(kernel.shape[1:3]))
    return lax.conv_general_dilated(
        x, kernel, (time_stride, 1, 1), padding, dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
    )


def conv2d_taps(x: Array, kernel: Array, time_stride: int = 1) -> Array:
    """Compute `conv3d` as one 2-D convolution per time tap, several times faster on CPU."""
    frames = (x.shape[1] - kernel.shape[0]) // time_stride + 1
    span = time_stride * (frames - 1) + 1
    padding = _same_padding(kernel.shape[1:3])

    def tap(k: int) -> Array:
        clip = x[:, k : k + span : time_stride]
        return per_frame(lambda images: conv2d(images, kernel[k], 1, padding), clip)

    total = tap(0)
    for k in range(1, kernel.shape[0]):
        total = total + tap(k)
    return total


def conv_fn(conv_impl: ConvImpl) -> Callable[..., Array]:
    """Return the 3-D convolution (clips, kernel, time_stride=1) that `conv_impl` names."""
    return conv3d if for_accelerator(conv_impl) else conv2d_taps


def for_accelerator(conv_impl: ConvImpl) -> bool:
    """Return whether `conv_impl` names the form for accelerators, on this platform."""
    if conv_impl == "auto":
        return jax.default_backend() != "cpu"
    return conv_impl == "conv3d"


def residual_blocks(
    parent: nn.Module,
    make: Callable[..., nn.Module],
    names: Sequence[str],
    x: Array,
    cache: dict,
    *inputs: Any,
) -> tuple[Array, dict]:
    """Apply residual blocks, of which all but the first have equal shapes, one after the other.

    On accelerators the equal blocks are one loop: the TPU compiler spends seconds on every
    convolution of a program, also on equal ones, and a loop contains those of one block.

    Args:
      parent: the module whose compact method calls this; it owns the blocks' parameters.
      make: makes a block from `name` or `parent`; it has `features` and `conv_impl`, and maps
        (x, *inputs, cache) to (output, next chunk's cache), which is empty without chunks.
      names: of the blocks.
      cache: as returned for the preceding chunk, or empty.

    Returns:
      Output, and the next chunk's cache; the arrays of a loop have a leading axis of blocks.
    """
    block = make(parent=None)
    unequal = int(x.shape[-1] != block.features)
    loop = for_accelerator(block.conv_impl) and not parent.is_initializing()
    single = names[:unequal] if loop and len(names) > unequal + 1 else names
    new = {}
    for name in single:
        x, new[name] = make(name=name)(x, *inputs, cache.get(name, {}))
    equal = names[len(single) :]
    if not equal:
        return x, new

    def body(x: Array, step: tuple[Any, Any]) -> tuple[Array, Any]:
        params, past = step
        return block.apply({"params": params}, x, *inputs, past)

    params = [parent.variables["params"][name] for name in equal]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
    x, new["loop"] = lax.scan(body, x, (stacked, cache.get("loop", {})))
    return x, new


class CausalConv3d(nn.Module):
    """3-D convolution that depends on no later frame.

    The time axis is padded in front: with the last frames of the preceding chunk (`cache`), or
    with copies of the first frame if there is none.
    """

    features: int
    kernel_size: int = 3
    conv_impl: ConvImpl = "auto"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T H W C"], cache: Array | None = None
    ) -> tuple[Array, Array | None]:
        """Return the convolved clip, and the next chunk's cache.

        Args:
          cache: the last `kernel_size - 1` frames of the preceding chunk's padded input.
        """
        k = self.kernel_size
        kernel = self.param("kernel", TORCH_UNIFORM, (k, k, k, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x = x.astype(self.dtype)
        if k == 1:
            return x @ kernel[0, 0, 0].astype(self.dtype) + bias.astype(self.dtype), None
        past = jnp.repeat(x[:, :1], k - 1, axis=1) if cache is None else cache
        x = jnp.concatenate([past, x], axis=1)
        y = conv_fn(self.conv_impl)(x, kernel.astype(self.dtype))
        return y + bias.astype(self.dtype), x[:, 1 - k :]


class Conv2d(nn.Module):
    """3x3 convolution of each frame by itself."""

    features: int
    stride: int
    padding: tuple[tuple[int, int], tuple[int, int]]
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "B T H W C"]) -> Array:
        kernel = self.param("kernel", TORCH_UNIFORM, (3, 3, x.shape[-1], self.features))
        kernel = kernel.astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
        return per_frame(lambda frames: conv2d(frames, kernel, self.stride, self.padding), x) + bias


class GroupNorm(nn.Module):
    """Group normalization over (T, H, W, C / groups) of one chunk, statistics in float32."""

    groups: int
    eps: float

    @nn.compact
    def __call__(self, x: Float[Array, "B T H W C"]) -> Array:
        C = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (C,))
        bias = self.param("bias", nn.initializers.zeros, (C,))
        x32 = x.astype(jnp.float32)
        # Reduce over pixels first and over channels later: the first reduction then runs along
        # contiguous channels.
        mean = _group_mean(x32.mean((1, 2, 3)), self.groups)[:, None, None, None]
        variance = _group_mean(jnp.square(x32 - mean).mean((1, 2, 3)), self.groups)
        gain = (jax.lax.rsqrt(variance + self.eps) * scale)[:, None, None, None]
        return ((x32 - mean) * gain + bias).astype(x.dtype)


def _group_mean(x_BxC: Array, groups: int) -> Array:
    """Return the mean of each channel group, repeated for every channel of it."""
    B, C = x_BxC.shape
    return jnp.repeat(x_BxC.reshape(B, groups, C // groups).mean(-1), C // groups, axis=1)


def in_chunks(coder: nn.Module, x: Array, first: int, size: int, unroll: bool = False) -> Array:
    """Apply `coder` to a clip chunk by chunk, passing each chunk the caches of the preceding one.

    Frames after the last whole chunk are dropped. The chunks after the first are equal in size, so
    one scanned body processes them and compile time does not grow with the clip.

    Args:
      coder: (chunk, caches) -> (output, caches).
      first: frames of the first chunk.
      size: frames of each further chunk.
      unroll: no loop: XLA's CPU back end runs the gradient of convolutions within a loop many times
        slower.
    """
    start, cache = coder(x[:, :first], {})
    B = x.shape[0]
    n = (x.shape[1] - first) // size
    if n == 0:
        return start
    chunks = jnp.moveaxis(x[:, first : first + n * size].reshape(B, n, size, *x.shape[2:]), 1, 0)

    def body(coder: nn.Module, cache: dict, chunk: Array) -> tuple[dict, Array]:
        y, cache = coder(chunk, cache)
        return cache, y

    scan = nn.scan(
        body, variable_broadcast="params", split_rngs={"params": False}, unroll=n if unroll else 1
    )
    _, ys = scan(coder, cache, chunks)
    ys = jnp.moveaxis(ys, 0, 1)
    return jnp.concatenate([start, ys.reshape(B, -1, *ys.shape[3:])], axis=1)
