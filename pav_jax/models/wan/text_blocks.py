"""Wan's texts without most of their padding.

Wan does not mask the padding of a text: all of its embeddings are zero, so that all of its keys and
values are equal. n equal keys weigh as much as one whose logit is larger by log(n), so one slot
stands for the whole padding, and the slots after it need no keys and values.

Texts have their own lengths. They are read in blocks of slots, up to the last block that a text of
the batch reaches; what that adds to a shorter text is exactly zero, so that a text does not depend
on the others.

Shapes: B batch, S text slots, s those of a block, D width.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from pav_jax.models.attention.dot_product import MASKED


@struct.dataclass
class TextBlocks:
    """Texts in blocks of slots.

    Attributes:
      slots_BxSxD: S is a multiple of `size`.
      bias_BxS: added to the logits of a slot.
      num_blocks: how many blocks hold all texts with the slot for their padding.
      size: slots of a block.
    """

    slots_BxSxD: Float[Array, "B S D"]
    bias_BxS: Float[Array, "B S"]
    num_blocks: Int[Array, ""]
    size: int = struct.field(pytree_node=False)

    @classmethod
    def split(
        cls, slots_BxSxD: Float[Array, "B S D"], length_B: Int[Array, "B"], size: int
    ) -> "TextBlocks":
        """Split texts into blocks of `size` slots.

        Args:
          length_B: slots that are not padding; all others are equal.
        """
        num_slots = slots_BxSxD.shape[1]
        index_S = jnp.arange(num_slots)
        length_Bx1 = length_B[:, None]
        log_padding_Bx1 = jnp.log(jnp.maximum(num_slots - length_Bx1, 1).astype(jnp.float32))
        after_text_BxS = jnp.where(index_S == length_Bx1, log_padding_Bx1, MASKED)
        bias_BxS = jnp.where(index_S < length_Bx1, 0.0, after_text_BxS)
        extra = -num_slots % size
        return cls(
            jnp.pad(slots_BxSxD, ((0, 0), (0, extra), (0, 0))),
            jnp.pad(bias_BxS, ((0, 0), (0, extra)), constant_values=MASKED),
            (jnp.minimum(length_B.max() + 1, num_slots) + size - 1) // size,
            size,
        )

    def block(self, index: Array) -> tuple[Float[Array, "B s D"], Float[Array, "B 1 1 s"]]:
        """Return the slots of a block, and the bias of their logits."""
        start = index * self.size
        slots_BxsxD = jax.lax.dynamic_slice_in_dim(self.slots_BxSxD, start, self.size, axis=1)
        bias_Bxs = jax.lax.dynamic_slice_in_dim(self.bias_BxS, start, self.size, axis=1)
        return slots_BxsxD, bias_Bxs[:, None, None]


def text_lengths(text_BxSxU: Float[Array, "B S U"]) -> Int[Array, "B"]:
    """Return how many slots of each text there are up to the last one that is not zero."""
    stop_S = jnp.arange(1, text_BxSxU.shape[1] + 1)
    return jnp.where((text_BxSxU != 0).any(axis=-1), stop_S, 0).max(axis=1)
