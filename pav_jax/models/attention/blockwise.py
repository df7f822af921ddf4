"""Attention over many tokens in plain JAX: keys are seen block by block, so that memory stays
bounded: a video has tens of thousands of tokens, their logits would fill any device.

Source: Rabe & Staats 2021 (arXiv 2112.05682); the running maximum and sum are those of Milakov &
Gimelshein 2018 (arXiv 1805.02867).

Letters: B batch, T queries, S keys, N heads, H head size.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pav_jax.models.attention.dot_product import MASKED, FirstKeys, dot_product_attention

HELD = 2**28  # logits held at once: a GiB in float32
TILE = 128  # blocks are multiples of so many queries and keys


class Partial(NamedTuple):
    """Attention over the keys seen so far, before its division: sums relative to `top`, the largest
    logit yet."""

    out_BxTxNxH: Float[Array, "B T N H"]
    top_BxNxT: Float[Array, "B N T"]
    total_BxNxT: Float[Array, "B N T"]

    @classmethod
    def of_none(cls, q_BxTxNxH: Array) -> "Partial":
        b, t, n, h = q_BxTxNxH.shape
        return cls(
            jnp.zeros((b, t, n, h), jnp.float32),
            jnp.full((b, n, t), MASKED, jnp.float32),
            jnp.zeros((b, n, t), jnp.float32),
        )

    def with_keys(
        self, q_BxTxNxH: Array, k_BxSxNxH: Array, v_BxSxNxH: Array, seen: Bool[Array, "#B 1 1 S"]
    ) -> "Partial":
        """Adds a block of keys, of which the `seen` count; queries come scaled."""
        logits = jnp.einsum(
            "btnh,bsnh->bnts", q_BxTxNxH, k_BxSxNxH, preferred_element_type=jnp.float32
        )
        logits = jnp.where(seen, logits, MASKED)
        top = jnp.maximum(self.top_BxNxT, logits.max(-1))
        weights = jnp.where(seen, jnp.exp(logits - top[..., None]), 0.0)
        older = jnp.exp(self.top_BxNxT - top)
        out = jnp.einsum(
            "bnts,bsnh->btnh",
            weights.astype(v_BxSxNxH.dtype),
            v_BxSxNxH,
            preferred_element_type=jnp.float32,
        )
        return Partial(
            self.out_BxTxNxH * older.swapaxes(1, 2)[..., None] + out,
            top,
            self.total_BxNxT * older + weights.sum(-1),
        )

    def result(self, dtype: Any) -> Float[Array, "B T N H"]:
        """Zeros for a query that saw no key."""
        total_BxTxNx1 = self.total_BxNxT.swapaxes(1, 2)[..., None]
        return (self.out_BxTxNxH / jnp.where(total_BxTxNx1 == 0, 1.0, total_BxTxNx1)).astype(dtype)


def add_keys(
    before: Partial,
    q_BxTxNxH: Array,
    k_BxSxNxH: Array,
    v_BxSxNxH: Array,
    seen: Bool[Array, "#B 1 1 S"],
    held: int = HELD,
) -> Partial:
    """`before` and these keys, of which the `seen` count, block by block of queries and keys.

    Args:
      held: logits at once; a block has at least `TILE` queries and keys.
    """
    (b, t, n, _), s = q_BxTxNxH.shape, k_BxSxNxH.shape[1]
    side = max(math.isqrt(held // (b * n)) // TILE * TILE, TILE)
    # of few keys a block holds all, and then more queries
    block_s = min(side, s)
    block_t = min(max(held // (b * n * block_s) // TILE * TILE, TILE), t)
    keys = _blocks(k_BxSxNxH, 1, block_s), _blocks(v_BxSxNxH, 1, block_s), _blocks(seen, 3, block_s)

    def some_queries(part: tuple[Array, Partial]) -> Partial:
        q, before = part
        body = lambda before, block: (before.with_keys(q, *block), None)  # noqa: E731
        return jax.lax.scan(body, before, keys)[0]

    rows = Partial(*(_blocks(x, axis, block_t) for x, axis in zip(before, (1, 2, 2), strict=True)))
    out, top, total = jax.lax.map(some_queries, (_blocks(q_BxTxNxH, 1, block_t), rows))
    return Partial(_joined(out, 1, t), _joined(top, 2, t), _joined(total, 2, t))


def _blocks(x: Array, axis: int, size: int) -> Array:
    """`x` cut along `axis` into blocks of `size`, on a new first axis; the last one is filled up
    with zeros."""
    padding = [(0, 0)] * x.ndim
    padding[axis] = (0, -x.shape[axis] % size)
    x = jnp.pad(x, padding)
    return jnp.moveaxis(x.reshape(*x.shape[:axis], -1, size, *x.shape[axis + 1 :]), axis, 0)


def _joined(blocks: Array, axis: int, count: int) -> Array:
    """The inverse of `_blocks`, the first `count` of it."""
    x = jnp.moveaxis(blocks, 0, axis)
    x = x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])
    return jax.lax.slice_in_dim(x, 0, count, axis=axis)


def blockwise_attention(
    q_BxTxNxH: Float[Array, "B T N H"],
    k_BxSxNxH: Float[Array, "B S N H"],
    v_BxSxNxH: Float[Array, "B S N H"],
    mask: FirstKeys | Bool[Array, "#B 1 1 S"] | None = None,
    held: int = HELD,
) -> Float[Array, "B T N H"]:
    """As `dot_product_attention`, which it is where no more than `held` logits are needed; heads of
    keys are those of queries.

    Args:
      mask: one for all queries; True = attend.
    """
    (b, t, n, h), s = q_BxTxNxH.shape, k_BxSxNxH.shape[1]
    if b * n * t * s <= held:
        return dot_product_attention(q_BxTxNxH, k_BxSxNxH, v_BxSxNxH, mask)
    seen = (
        jnp.ones((1, 1, 1, s), bool)
        if mask is None
        else mask.array(s)
        if isinstance(mask, FirstKeys)
        else mask
    )
    q_BxTxNxH = q_BxTxNxH * h**-0.5
    return add_keys(Partial.of_none(q_BxTxNxH), q_BxTxNxH, k_BxSxNxH, v_BxSxNxH, seen, held).result(
        v_BxSxNxH.dtype
    )
