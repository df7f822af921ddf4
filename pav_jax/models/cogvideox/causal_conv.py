"""Causal 3-D convolution, [B, T, H, W, C], in the two forms that are fast on accelerators and on
CPUs.

Axis letters in this room: B clips, T frames, H and W pixels, C channels, t/h/w the same axes in
latent space.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

ConvImpl = Literal["auto", "conv3d", "conv2d_taps"]


def conv2d(x_NxHxWxC: Array, kernel: Array, stride: int = 1, padding=((1, 1), (1, 1))) -> Array:
    return lax.conv_general_dilated(
        x_NxHxWxC, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def per_frame(function, x_BxTxHxWxC: Array) -> Array:
    """Applies an image function to every frame, the frames folded into the batch."""
    B, T = x_BxTxHxWxC.shape[:2]
    y = function(x_BxTxHxWxC.reshape(B * T, *x_BxTxHxWxC.shape[2:]))
    return y.reshape(B, T, *y.shape[1:])


def conv3d(x: Array, kernel: Array) -> Array:
    """The convolution as XLA's own 3-D operation; no padding in time, "same" in space."""
    pads = ((0, 0), *(((k - 1) // 2,) * 2 for k in kernel.shape[1:3]))
    return lax.conv_general_dilated(
        x, kernel, (1, 1, 1), pads, dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
    )


def conv2d_taps(x: Array, kernel: Array) -> Array:
    """The same sum as one 2-D convolution per time tap; XLA's CPU back end runs these several times
    faster."""
    T = x.shape[1] - kernel.shape[0] + 1
    pads = tuple(((k - 1) // 2,) * 2 for k in kernel.shape[1:3])
    return sum(
        per_frame(lambda frames, w=kernel[k]: conv2d(frames, w, padding=pads), x[:, k : k + T])
        for k in range(kernel.shape[0])
    )


def resolve(impl: ConvImpl) -> ConvImpl:
    if impl != "auto":
        return impl
    return "conv2d_taps" if jax.default_backend() == "cpu" else "conv3d"


class CausalConv3d(nn.Module):
    """3-D convolution that sees the past only: the time axis is padded with the two frames kept
    from the chunk before, or with copies of the first frame where there is none.
    """

    features: int
    kernel_size: int = 3
    conv_impl: ConvImpl = "auto"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T H W C"], cache: Array | None = None
    ) -> tuple[Array, Array | None]:
        """Returns the convolved clip and the last `kernel_size - 1` frames of the padded input, the
        next cache."""
        k = self.kernel_size
        kernel = self.param(
            "kernel",
            nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
            (k, k, k, x.shape[-1], self.features),
        )  # torch's default range, 1 / sqrt(fan_in)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x = x.astype(self.dtype)
        if k == 1:
            return x @ kernel[0, 0, 0].astype(self.dtype) + bias.astype(self.dtype), None
        past = jnp.repeat(x[:, :1], k - 1, axis=1) if cache is None else cache
        x = jnp.concatenate([past, x], axis=1)
        run = conv3d if resolve(self.conv_impl) == "conv3d" else conv2d_taps
        return run(x, kernel.astype(self.dtype)) + bias.astype(self.dtype), x[:, 1 - k :]


def in_chunks(coder: nn.Module, x: Array, first: int, size: int, unroll: bool = False) -> Array:
    """Runs `coder` on the `first` frames, then on `size` at a time, handing each chunk the caches
    of the one before.

    Frames after the last whole chunk are dropped. With `unroll` there is no loop: XLA's CPU back
    end runs the gradient of convolutions within one many times slower.
    """
    done, cache = coder(x[:, :first], {})
    B, n = x.shape[0], (x.shape[1] - first) // size
    if n == 0:
        return done
    # The remaining chunks are all alike: one scanned body, so compile time does not grow with the
    # clip.
    rest = jnp.moveaxis(x[:, first : first + n * size].reshape(B, n, size, *x.shape[2:]), 1, 0)

    def body(coder, cache, chunk):
        y, cache = coder(chunk, cache)
        return cache, y

    scan = nn.scan(
        body, variable_broadcast="params", split_rngs={"params": False}, unroll=n if unroll else 1
    )
    _, ys = scan(coder, cache, rest)
    ys = jnp.moveaxis(ys, 0, 1)
    return jnp.concatenate([done, ys.reshape(B, -1, *ys.shape[3:])], axis=1)
