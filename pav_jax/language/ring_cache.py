"""Caches of layers with an attention window: as many slots as the window has tokens.

Token p of a row, counted after the shared prefix, is in slot p mod C, in place of token p - C:
no later query attends to that one.

Letters: B rows, K key/value heads, P padded length of a prompt, C slots of a ring, H head
size.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def ring_mask(slots: int, positions_B: Int[Array, "B"]) -> Bool[Array, "B 1 1 C"]:
    """Return the slots that queries at these positions attend to, once their keys are written."""
    return (jnp.arange(slots) <= positions_B[:, None])[:, None, None]


def ring_of_prompts(
    cache_BxKxPxH: Float[Array, "B K P H"], slots: int, lengths_B: Int[Array, "B"]
) -> Float[Array, "B K C H"]:
    """Return the last tokens of prompts in the slots of a ring.

    Args:
      cache_BxKxPxH: keys or values of prompts, padded on the left.
      slots: of the ring; those that no prompt reaches are left out.
      lengths_B: tokens of each prompt.
    """
    padded = cache_BxKxPxH.shape[2]
    last_Bx1 = lengths_B[:, None] - 1
    positions_BxC = last_Bx1 - (last_Bx1 - jnp.arange(min(slots, padded))) % slots
    sources_BxC = jnp.maximum(positions_BxC + padded - lengths_B[:, None], 0)
    return jnp.take_along_axis(cache_BxKxPxH, sources_BxC[:, None, :, None], axis=2)
