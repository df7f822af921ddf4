"""Caches of layers with an attention window: as many slots as the window has tokens.

Token p of a row, counted after the shared prefix, is in slot p mod C, in place of token p - C:
no later query attends to that one.

Letters: B rows, L layers, K key/value heads, C slots of a ring.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def ring_mask(slots: int, positions_B: Int[Array, "B"]) -> Bool[Array, "B 1 1 C"]:
    """Return the slots that queries at these positions attend to, once their keys are written."""
    return (jnp.arange(slots) <= positions_B[:, None])[:, None, None]


def ring_of_prompts(
    cache: Float[Array, "B K _ _"], axis: int, slots: int, lengths_B: Int[Array, "B"]
) -> Float[Array, "B K _ _"]:
    """Return the last tokens of prompts in the slots of a ring.

    Args:
      cache: keys or values of prompts, padded on the left.
      axis: of the prompts' slots.
      slots: of the ring; those that no prompt reaches are left out.
      lengths_B: tokens of each prompt.
    """
    padded = cache.shape[axis]
    last_Bx1 = lengths_B[:, None] - 1
    positions_BxC = last_Bx1 - (last_Bx1 - jnp.arange(min(slots, padded))) % slots
    sources_BxC = jnp.maximum(positions_BxC + padded - lengths_B[:, None], 0)
    return take_slots(cache, sources_BxC, axis)


def take_slots(
    cache: Float[Array, "*L B K _ _"], sources_BxC: Int[Array, "B C"], axis: int
) -> Float[Array, "*L B K _ _"]:
    """Return the slots of each row, along `axis`, that come from these slots of the row."""
    shape = [1] * cache.ndim
    shape[-4], shape[axis] = sources_BxC.shape
    return jnp.take_along_axis(cache, sources_BxC.reshape(shape), axis=axis)
