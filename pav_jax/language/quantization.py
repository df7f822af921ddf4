"""A quantized frozen base, as in QLoRA (Dettmers et al. 2023, arXiv 2305.14314).

The layers' kernels, those of experts too, are stored as small integers with one scale for every
TILE of their inputs, and dequantized where a layer uses them.

Integers and scales are those of qwix (extra `quantize`). Embeddings, norms, biases, routers and the
output layer are not quantized.
"""

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from flax import traverse_util

from pav_jax.errors import BadInput

KINDS = ("int8", "int4", "nf4")
# names of the arrays in a layer's tree: of dense layers, and of experts
MATRICES = ("kernel", "gate_proj", "up_proj", "down_proj")
TILE = 64  # inputs that share a scale (Dettmers et al., section 3: 64)


@flax.struct.dataclass
class QuantizedKernel:
    """Takes the place of a kernel [in, out], or of a stack: [L, in, out], [L, E, in, out].

    A layer casts its kernel to the dtype it computes in; for this class the cast dequantizes.

    Attributes:
      array: a `qwix.QArray`.
    """

    array: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the kernel."""
        return self.array.qvalue.shape

    @property
    def size(self) -> int:
        """The number of elements of the kernel."""
        return self.array.qvalue.size

    def astype(self, dtype: Any) -> jax.Array:
        """Dequantize the kernel."""
        import qwix

        return qwix.dequantize(self.array).astype(dtype)


def quantize(params: Mapping, kind: str) -> dict:
    """Return `params` with the kernels of all layers quantized.

    Args:
      kind: int8, int4 or nf4.

    Raises:
      BadInput: an unknown kind, or qwix is not installed.
    """
    if kind not in KINDS:
        raise BadInput(
            f"quantize={kind!r}: choose one of {', '.join(KINDS)}, or none", field="quantize"
        )
    try:
        import qwix
    except ImportError as error:
        raise BadInput(
            f"quantize={kind!r} needs qwix; pip install 'pav-jax[quantize]'", field="quantize"
        ) from error

    def quantize_layer(kernel_IxO: jax.Array) -> Any:
        inputs = kernel_IxO.shape[0]
        tile = TILE if inputs % TILE == 0 else inputs
        return qwix.quantize(
            kernel_IxO.astype(jnp.float32), kind, channelwise_axes=(1,), tiled_axes={0: tile}
        )

    def quantize_stack(kernels: jax.Array) -> QuantizedKernel:
        # one kernel at a time: qwix would share scales between those of a stack
        *stack, inputs, outputs = kernels.shape
        parts = jax.lax.map(quantize_layer, kernels.reshape(-1, inputs, outputs))
        return QuantizedKernel(jax.tree.map(lambda x: x.reshape(*stack, *x.shape[1:]), parts))

    flat = dict(traverse_util.flatten_dict(params))
    for path, value in flat.items():
        if path[0] == "layers" and path[-1] in MATRICES:
            flat[path] = jax.jit(quantize_stack)(value)
    return traverse_util.unflatten_dict(flat)


def dequantize(params: Mapping, dtype: Any) -> dict:
    """Return `params` with ordinary arrays of `dtype` in place of quantized kernels."""
    return jax.tree.map(
        lambda x: x.astype(dtype) if _is_quantized(x) else x, params, is_leaf=_is_quantized
    )


def array_axes(axes: Mapping, params: Mapping) -> dict:
    """Return the logical axes of each array in `params`.

    Args:
      axes: the logical axes of each parameter. A quantized kernel has several arrays, which all
        have the axes of the kernel.
      params: perhaps with quantized kernels.
    """
    flat_axes = traverse_util.flatten_dict(axes)
    flat = {}
    for path, value in traverse_util.flatten_dict(params).items():
        if _is_quantized(value):
            flat[path] = [flat_axes[path]] * len(jax.tree.leaves(value))
        else:
            flat[path] = flat_axes[path]
    return traverse_util.unflatten_dict(flat)


def _is_quantized(x: Any) -> bool:
    return isinstance(x, QuantizedKernel)
