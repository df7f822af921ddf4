"""Attention over many tokens in plain JAX: keys are seen block by block, so the logits never lie in memory at once.

Source: Rabe & Staats 2021 (arXiv 2112.05682); the running maximum and sum are those of Milakov & Gimelshein 2018
(arXiv 1805.02867).

Letters: B batch, T queries, S keys, N heads, H head size.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pav_jax.models.attention import MASKED, FirstKeys, dot_product_attention

BLOCK = 1024  # queries and keys worked on at once
PLAIN = 4096  # up to so many keys the plain attention is used


class Partial(NamedTuple):
    """Attention over the keys seen so far, before its division: sums relative to `top`, the largest logit yet."""

    out_BxTxNxH: Float[Array, "B T N H"]
    top_BxNxT: Float[Array, "B N T"]
    total_BxNxT: Float[Array, "B N T"]

    @classmethod
    def of_none(cls, q_BxTxNxH: Array) -> "Partial":
        b, t, n, h = q_BxTxNxH.shape
        return cls(jnp.zeros((b, t, n, h), jnp.float32), jnp.full((b, n, t), MASKED, jnp.float32),
                   jnp.zeros((b, n, t), jnp.float32))

    def with_keys(self, q_BxTxNxH: Array, k_BxSxNxH: Array, v_BxSxNxH: Array, real_S: Bool[Array, "S"]) -> "Partial":
        """Adds a block of keys; queries come scaled."""
        logits = jnp.einsum("btnh,bsnh->bnts", q_BxTxNxH, k_BxSxNxH, preferred_element_type=jnp.float32)
        logits = jnp.where(real_S, logits, MASKED)
        top = jnp.maximum(self.top_BxNxT, logits.max(-1))
        weights = jnp.where(real_S, jnp.exp(logits - top[..., None]), 0.0)
        older = jnp.exp(self.top_BxNxT - top)
        out = jnp.einsum("bnts,bsnh->btnh", weights.astype(v_BxSxNxH.dtype), v_BxSxNxH,
                         preferred_element_type=jnp.float32)
        return Partial(self.out_BxTxNxH * older.swapaxes(1, 2)[..., None] + out, top,
                       self.total_BxNxT * older + weights.sum(-1))

    def result(self, dtype: Any) -> Float[Array, "B T N H"]:
        return (self.out_BxTxNxH / self.total_BxNxT.swapaxes(1, 2)[..., None]).astype(dtype)


def add_keys(seen: Partial, q_BxTxNxH: Array, k_BxSxNxH: Array, v_BxSxNxH: Array, first: Int[Array, ""] | int,
             count: int, block: int = BLOCK) -> Partial:
    """`seen` and these keys, of which the first has number `first` among all, and only numbers below `count` are real.

    Works on `block` queries and keys at once.
    """
    t, s = q_BxTxNxH.shape[1], k_BxSxNxH.shape[1]
    block_t, block_s = min(block, t), min(block, s)
    keys = jnp.stack(_blocks(k_BxSxNxH, 1, block_s)), jnp.stack(_blocks(v_BxSxNxH, 1, block_s))
    numbers = jnp.arange(len(keys[0]) * block_s).reshape(-1, block_s)
    real = (numbers < s) & (first + numbers < count)

    def some_queries(part: tuple[Array, Partial]) -> Partial:
        q, seen = part
        body = lambda seen, key: (seen.with_keys(q, *key), None)  # noqa: E731
        return jax.lax.scan(body, seen, (*keys, real))[0]

    cut = lambda x, axis: jnp.stack(_blocks(x, axis, block_t))  # noqa: E731
    queries = cut(q_BxTxNxH, 1), Partial(cut(seen.out_BxTxNxH, 1), cut(seen.top_BxNxT, 2), cut(seen.total_BxNxT, 2))
    out, top, total = jax.lax.map(some_queries, queries)
    join = lambda x, axis: jnp.concatenate(list(x), axis=axis).take(jnp.arange(t), axis=axis)  # noqa: E731
    return Partial(join(out, 1), join(top, 2), join(total, 2))


def _blocks(x: Array, axis: int, size: int) -> list[Array]:
    """`x` cut along `axis` into parts of `size`, the last one filled up with zeros."""
    padding = [(0, 0)] * x.ndim
    padding[axis] = (0, -x.shape[axis] % size)
    x = jnp.pad(x, padding)
    return jnp.split(x, x.shape[axis] // size, axis=axis)


def blockwise_attention(q_BxTxNxH: Float[Array, "B T N H"], k_BxSxNxH: Float[Array, "B S N H"],
                        v_BxSxNxH: Float[Array, "B S N H"], mask: FirstKeys | None = None,
                        plain: int = PLAIN, block: int = BLOCK) -> Float[Array, "B T N H"]:
    """As `dot_product_attention`, which it is up to `plain` keys; heads of keys are those of queries."""
    s, h = k_BxSxNxH.shape[1], q_BxTxNxH.shape[-1]
    if s <= plain:
        return dot_product_attention(q_BxTxNxH, k_BxSxNxH, v_BxSxNxH, mask)
    q_BxTxNxH = q_BxTxNxH * h**-0.5
    seen = add_keys(Partial.of_none(q_BxTxNxH), q_BxTxNxH, k_BxSxNxH, v_BxSxNxH, 0, s if mask is None else mask.count,
                    block)
    return seen.result(v_BxSxNxH.dtype)
