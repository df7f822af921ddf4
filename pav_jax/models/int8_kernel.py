"""Matrix products of 8-bit integers, faster on a CPU than those of float32.

Vector-wise quantization (Dettmers et al. 2022, arXiv 2208.07339, section 2.2): the weights of each
output and the activations of each row have their own scale and are rounded to -127 .. 127; their
products are summed exactly, in 32 bits. A row's result does not depend on the other rows.

Letters: L layers, I inputs, O outputs.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int8

LARGEST = 127


@flax.struct.dataclass
class Int8Kernel:
    """Takes the place of a kernel [in, out] in `x @ kernel`; may be a stack [L, in, out].

    Attributes:
      values: the rounded weights, [in, out]; [out, in] between `decode.split_layers` and a step.
      scales: [out]; an output's weights are its values times its scale.
    """

    values: Int8[Array, "*L _ _"]
    scales: Float[Array, "*L _"]

    @classmethod
    def quantize(cls, kernel: Float[Array, "*L I O"]) -> "Int8Kernel":
        """Quantize a kernel or a stack of kernels."""
        values, scales = _round(kernel.astype(jnp.float32), axis=-2)
        return cls(values, scales[..., 0, :])

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the kernel."""
        return self.values.shape

    @property
    def size(self) -> int:
        """The number of elements of the kernel."""
        return self.values.size

    def astype(self, dtype: object) -> "Int8Kernel":
        """Return the kernel itself: a layer casts its kernel to the dtype it computes in."""
        del dtype
        return self

    def swapaxes(self, axis1: int, axis2: int) -> "Int8Kernel":
        """Swap the axes of the values; the scales still belong to the outputs."""
        return dataclasses.replace(self, values=self.values.swapaxes(axis1, axis2))

    def __rmatmul__(self, x: Float[Array, "... I"]) -> Float[Array, "... O"]:
        """Return x @ kernel, in the dtype of `x`."""
        rounded, scales = _round(x.astype(jnp.float32), axis=-1)
        contracted = (((x.ndim - 1,), (0,)), ((), ()))
        sums = jax.lax.dot_general(
            rounded, self.values, contracted, preferred_element_type=jnp.int32
        )
        return (sums.astype(jnp.float32) * (scales * self.scales)).astype(x.dtype)


def is_int8(a: Any) -> bool:
    """Return whether a leaf of parameters is an 8-bit kernel."""
    return isinstance(a, Int8Kernel)


def quantize_params(params: Mapping) -> dict:
    """Return a decoder's parameters with 8-bit kernels in its layers and its output layer.

    Embeddings, norms, biases and experts stay as they are.
    """

    def quantize(path: tuple, a: Any) -> Any:
        is_kernel = path[-1] == jax.tree_util.DictKey("kernel")
        return jax.jit(Int8Kernel.quantize)(a) if is_kernel else a

    head = params["lm_head"] if "lm_head" in params else params["embed"].T
    layers = jax.tree_util.tree_map_with_path(quantize, params["layers"])
    return {**params, "layers": layers, "lm_head": jax.jit(Int8Kernel.quantize)(head)}


def _round(x: Float[Array, "..."], axis: int) -> tuple[Int8[Array, "..."], Float[Array, "..."]]:
    """Integers, and the scales along the other axes that they were divided by."""
    largest = jnp.abs(x).max(axis, keepdims=True)
    scales = jnp.where(largest == 0, 1.0, largest / LARGEST)
    return jnp.round(x / scales).astype(jnp.int8), scales
