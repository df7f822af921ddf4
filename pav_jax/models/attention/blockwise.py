"""Attention over many tokens with bounded memory, in plain JAX: one block of keys at a time.

A video has tens of thousands of tokens; all their logits at once would fill any device.

Source: Rabe & Staats 2021 (arXiv 2112.05682); the running maximum and sum are those of Milakov &
Gimelshein 2018 (arXiv 1805.02867).

Letters: B batch, T queries, S keys, N heads, H head size.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pav_jax.models.attention.dot_product import (
    MASKED,
    FirstKeys,
    dot_product_attention,
    mask_array,
)

MAX_LOGITS = 2**28  # logits in memory at once: 1 GiB in float32
TILE = 128  # block sizes are multiples of this many queries and keys


class Partial(NamedTuple):
    """Attention over the keys so far, before its division, relative to the largest logit so far.

    Attributes:
      out_BxTxNxH: sum of the values, weighted by exp(logit - max).
      max_BxNxT: the largest logit.
      total_BxNxT: sum of exp(logit - max).
    """

    out_BxTxNxH: Float[Array, "B T N H"]
    max_BxNxT: Float[Array, "B N T"]
    total_BxNxT: Float[Array, "B N T"]

    @classmethod
    def empty(cls, q_BxTxNxH: Array) -> "Partial":
        """Return the state before any key."""
        b, t, n, h = q_BxTxNxH.shape
        return cls(
            jnp.zeros((b, t, n, h), jnp.float32),
            jnp.full((b, n, t), MASKED, jnp.float32),
            jnp.zeros((b, n, t), jnp.float32),
        )

    def with_keys(
        self,
        q_BxTxNxH: Array,
        k_BxSxNxH: Array,
        v_BxSxNxH: Array,
        mask: Bool[Array, "#B 1 1 S"] | None = None,
        bias: Float[Array, "#B 1 1 S"] | None = None,
    ) -> "Partial":
        """Return the state after one more block of keys.

        Args:
          q_BxTxNxH: already scaled.
          mask: True = attend.
          bias: added to the logits.
        """
        logits = jnp.einsum(
            "btnh,bsnh->bnts", q_BxTxNxH, k_BxSxNxH, preferred_element_type=jnp.float32
        )
        if bias is not None:
            logits = logits + bias
        if mask is not None:
            logits = jnp.where(mask, logits, MASKED)
        new_max_BxNxT = jnp.maximum(self.max_BxNxT, logits.max(-1))
        weights = jnp.exp(logits - new_max_BxNxT[..., None])
        if mask is not None:
            weights = jnp.where(mask, weights, 0.0)
        rescale_BxNxT = jnp.exp(self.max_BxNxT - new_max_BxNxT)
        out = jnp.einsum(
            "bnts,bsnh->btnh",
            weights.astype(v_BxSxNxH.dtype),
            v_BxSxNxH,
            preferred_element_type=jnp.float32,
        )
        return Partial(
            self.out_BxTxNxH * rescale_BxNxT.swapaxes(1, 2)[..., None] + out,
            new_max_BxNxT,
            self.total_BxNxT * rescale_BxNxT + weights.sum(-1),
        )

    def result(self, dtype: Any) -> Float[Array, "B T N H"]:
        """Return the attention output as `dtype`; zeros for a query that attended to no key."""
        total_BxTxNx1 = self.total_BxNxT.swapaxes(1, 2)[..., None]
        return (self.out_BxTxNxH / jnp.where(total_BxTxNx1 == 0, 1.0, total_BxTxNx1)).astype(dtype)


def add_keys(
    partial: Partial,
    q_BxTxNxH: Array,
    k_BxSxNxH: Array,
    v_BxSxNxH: Array,
    mask: Bool[Array, "#B 1 1 S"],
    max_logits: int = MAX_LOGITS,
) -> Partial:
    """Add any number of keys to `partial`, one block of queries and keys at a time.

    Args:
      q_BxTxNxH: already scaled.
      mask: True = attend.
      max_logits: in memory at once; but a block has at least `TILE` queries and keys.
    """
    b, t, n, _ = q_BxTxNxH.shape
    s = k_BxSxNxH.shape[1]
    square = max(math.isqrt(max_logits // (b * n)) // TILE * TILE, TILE)
    # a block holds all keys if they are few, and then more queries
    block_s = min(square, s)
    block_t = min(max(max_logits // (b * n * block_s) // TILE * TILE, TILE), t)
    keys = _blocks(k_BxSxNxH, 1, block_s), _blocks(v_BxSxNxH, 1, block_s), _blocks(mask, 3, block_s)

    def add_to_queries(part: tuple[Array, Partial]) -> Partial:
        q, before = part

        def add_block(before: Partial, block: tuple) -> tuple[Partial, None]:
            return before.with_keys(q, *block), None

        return jax.lax.scan(add_block, before, keys)[0]

    before = Partial(
        *(_blocks(x, axis, block_t) for x, axis in zip(partial, (1, 2, 2), strict=True))
    )
    after = jax.lax.map(add_to_queries, (_blocks(q_BxTxNxH, 1, block_t), before))
    return Partial(*(_unblock(x, axis, t) for x, axis in zip(after, (1, 2, 2), strict=True)))


def _blocks(x: Array, axis: int, size: int) -> Array:
    """Split `axis` into blocks of `size` on a new first axis, the last one padded with zeros."""
    padding = [(0, 0)] * x.ndim
    padding[axis] = (0, -x.shape[axis] % size)
    x = jnp.pad(x, padding)
    return jnp.moveaxis(x.reshape(*x.shape[:axis], -1, size, *x.shape[axis + 1 :]), axis, 0)


def _unblock(blocks: Array, axis: int, count: int) -> Array:
    """Invert `_blocks` and return the first `count` entries of `axis`."""
    x = jnp.moveaxis(blocks, 0, axis)
    x = x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])
    return jax.lax.slice_in_dim(x, 0, count, axis=axis)


def blockwise_attention(
    q_BxTxNxH: Float[Array, "B T N H"],
    k_BxSxNxH: Float[Array, "B S N H"],
    v_BxSxNxH: Float[Array, "B S N H"],
    mask: FirstKeys | Bool[Array, "#B 1 1 S"] | None = None,
    max_logits: int = MAX_LOGITS,
) -> Float[Array, "B T N H"]:
    """Compute `dot_product_attention` with bounded memory; every query head has its own keys.

    Args:
      mask: the same for all queries; True = attend.
      max_logits: in memory at once. If all logits are no more than this, they are computed at once.
    """
    b, t, n, h = q_BxTxNxH.shape
    s = k_BxSxNxH.shape[1]
    if b * n * t * s <= max_logits:
        return dot_product_attention(q_BxTxNxH, k_BxSxNxH, v_BxSxNxH, mask)
    keys_mask = mask_array(mask, s)
    if keys_mask is None:
        keys_mask = jnp.ones((1, 1, 1, s), bool)
    q_BxTxNxH = q_BxTxNxH * h**-0.5
    empty = Partial.empty(q_BxTxNxH)
    attended = add_keys(empty, q_BxTxNxH, k_BxSxNxH, v_BxSxNxH, keys_mask, max_logits)
    return attended.result(v_BxSxNxH.dtype)
