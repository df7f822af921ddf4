"""A frozen base in few bits, as in QLoRA (Dettmers et al. 2023, arXiv 2305.14314): the layers'
kernels are kept as small integers with a scale for every TILE of their inputs, and are numbers
again only where a layer computes with them.

The integers and scales are qwix's (extra `quantize`). Embeddings, norms and the output layer stay
as they are.
"""

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from flax import traverse_util

from pav_jax.errors import BadInput

KINDS = ("int8", "int4", "nf4")
TILE = 64  # inputs that share a scale (Dettmers et al., section 3: 64)


@flax.struct.dataclass
class QuantizedKernel:
    """Stands where a kernel [in, out], or a stack of them [L, in, out], stood. A layer casts its
    kernel to the type it
    computes with: here that makes the numbers.

    Attributes:
      array: a `qwix.QArray`.
    """

    array: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.qvalue.shape

    @property
    def size(self) -> int:
        return self.array.qvalue.size

    def astype(self, dtype: Any) -> jax.Array:
        import qwix

        return qwix.dequantize(self.array).astype(dtype)


def quantized(params: Mapping, kind: str) -> dict:
    """`params` with the kernel of every layer quantized to `kind`.

    Raises:
      BadInput: an unknown kind, or qwix is not installed.
    """
    if kind not in KINDS:
        raise BadInput(
            f"quantize={kind!r} is not known; choose from {', '.join(KINDS)}, or leave it empty"
        )
    try:
        import qwix
    except ImportError as error:
        raise BadInput(f"quantize={kind!r} needs qwix; pip install 'pav-jax[quantize]'") from error

    def one(kernel_IxO: jax.Array) -> Any:
        tile = TILE if kernel_IxO.shape[0] % TILE == 0 else kernel_IxO.shape[0]
        return qwix.quantize(
            kernel_IxO.astype(jnp.float32), kind, channelwise_axes=(1,), tiled_axes={0: tile}
        )

    def stacked(kernel_LxIxO: jax.Array) -> QuantizedKernel:
        # qwix takes a layer at a time: a stack would share scales between layers
        layers = [one(kernel_LxIxO[i]) for i in range(kernel_LxIxO.shape[0])]
        return QuantizedKernel(jax.tree.map(lambda *parts: jnp.stack(parts), *layers))

    flat = traverse_util.flatten_dict(params)
    return traverse_util.unflatten_dict(
        {
            path: jax.jit(stacked)(value) if path[0] == "layers" and path[-1] == "kernel" else value
            for path, value in flat.items()
        }
    )


def plain(params: Mapping, dtype: Any) -> dict:
    """The inverse, but for what rounding has taken."""
    return jax.tree.map(
        lambda x: x.astype(dtype) if _is_quantized(x) else x, params, is_leaf=_is_quantized
    )


def axes(names: Mapping, params: Mapping) -> dict:
    """Logical axes of each array in `params`. A quantized kernel has several arrays; each lies as
    the kernel did."""
    flat, named = traverse_util.flatten_dict(params), traverse_util.flatten_dict(names)
    return traverse_util.unflatten_dict(
        {
            path: (
                [named[path]] * len(jax.tree.leaves(value)) if _is_quantized(value) else named[path]
            )
            for path, value in flat.items()
        }
    )


def _is_quantized(x: Any) -> bool:
    return isinstance(x, QuantizedKernel)
