"""Matrix products in 8-bit integers, for steps of decoding on a CPU.

The weights of each output and the values of each row are scaled to -127 .. 127 and rounded; the
products are summed in 32 bits without rounding (vector-wise quantization, Dettmers et al. 2022,
arXiv 2208.07339, section 2.2). A row's result does not depend on the other rows.

Letters: I inputs, O outputs.
"""

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int8

LARGEST = 127


@flax.struct.dataclass
class Int8Kernel:
    """Takes the place of a kernel [in, out] in `x @ kernel`.

    Attributes:
      values: the rounded weights, [in, out], or [out, in] while they are stored.
      scales_O: each output's weights are its values times this.
    """

    values: Int8[Array, "_ _"]
    scales_O: Float[Array, "O"]

    @classmethod
    def quantize(cls, kernel_IxO: Float[Array, "I O"]) -> "Int8Kernel":
        """Round a kernel."""
        values, scales = _round(kernel_IxO.astype(jnp.float32), axis=0)
        return cls(values, scales[0])

    @property
    def size(self) -> int:
        """The number of elements of the kernel."""
        return self.values.size

    def astype(self, dtype: object) -> "Int8Kernel":
        """Return the kernel itself: a layer casts its kernel to the dtype it computes in."""
        del dtype
        return self

    def swapaxes(self, axis1: int, axis2: int) -> "Int8Kernel":
        """Store the values in another order; the scales still belong to the outputs."""
        return self.replace(values=self.values.swapaxes(axis1, axis2))

    def __rmatmul__(self, x: Float[Array, "... I"]) -> Float[Array, "... O"]:
        """Return x @ kernel, in the dtype of `x`."""
        rounded, scales = _round(x.astype(jnp.float32), axis=-1)
        contracted = (((x.ndim - 1,), (0,)), ((), ()))
        sums = jax.lax.dot_general(
            rounded, self.values, contracted, preferred_element_type=jnp.int32
        )
        return (sums.astype(jnp.float32) * (scales * self.scales_O)).astype(x.dtype)


def _round(x: Float[Array, "..."], axis: int) -> tuple[Int8[Array, "..."], Float[Array, "..."]]:
    """Integers, and the scales along the other axes that they were divided by."""
    largest = jnp.abs(x).max(axis, keepdims=True)
    scales = jnp.where(largest == 0, 1.0, largest / LARGEST)
    return jnp.round(x / scales).astype(jnp.int8), scales
