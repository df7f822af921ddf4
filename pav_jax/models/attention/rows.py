"""Attention for CPUs: one head and one block of queries at a time.

The logits of a block stay in the cache between the two products. A block of queries attends to all
keys at once, so no running maximum is needed. On the tokens of a video this takes a third of the
time of `dot_product_attention`, whose logits go through memory.

Letters: B batch, T queries, S keys, N query heads, K key/value heads, G = N / K, H head size.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pav_jax.models.attention.blockwise import blockwise_attention
from pav_jax.models.attention.dot_product import (
    MASKED,
    Causal,
    FirstKeys,
    dot_product_attention,
)

MAX_BLOCK_QUERIES = 256  # with 4000 keys the logits of a block take 4 MB
MAX_CACHED_LOGITS = 2**20  # of all heads: up to this many fit the cache without blocks
MIN_HEAD_LOGITS = 2**14  # below, the overhead of the loop exceeds its gain


def row_attention(
    q_BxTxNxH: Float[Array, "B T N H"],
    k_BxSxNxH: Float[Array, "B S N H"],
    v_BxSxNxH: Float[Array, "B S N H"],
    mask: FirstKeys | Bool[Array, "#B 1 1 S"] | None = None,
) -> Float[Array, "B T N H"]:
    """Compute `dot_product_attention` within the CPU's cache; every query head has its own keys.

    Calls `blockwise_attention` if there are few logits, or many small heads (attention within
    frames).

    Args:
      mask: the same for all queries; True = attend.
    """
    b, t, n, h = q_BxTxNxH.shape
    s = k_BxSxNxH.shape[1]
    if b * n * t * s <= MAX_CACHED_LOGITS or t * s < MIN_HEAD_LOGITS:
        return blockwise_attention(q_BxTxNxH, k_BxSxNxH, v_BxSxNxH, mask)
    if isinstance(mask, FirstKeys):
        k_BxSxNxH = k_BxSxNxH[:, : mask.count]
        v_BxSxNxH = v_BxSxNxH[:, : mask.count]
        mask = None
    blocks = -(-t // MAX_BLOCK_QUERIES)
    size = -(-t // blocks)
    q = jnp.pad(q_BxTxNxH * h**-0.5, ((0, 0), (0, blocks * size - t), (0, 0), (0, 0)))
    mask_BxNxS = None if mask is None else jnp.broadcast_to(mask[:, 0], (b, n, s))
    # B and N become one axis, which is looped over
    heads = [
        q.reshape(b, blocks, size, n, h).transpose(0, 3, 1, 2, 4),
        k_BxSxNxH.transpose(0, 2, 3, 1),
        v_BxSxNxH.transpose(0, 2, 1, 3),
        mask_BxNxS,
    ]
    heads = [None if x is None else x.reshape(b * n, *x.shape[2:]) for x in heads]

    def attend_head(arrays: tuple) -> Array:
        q_CxQxH, k_HxS, v_SxH, mask_S = arrays  # C blocks of Q queries

        def attend_block(q_QxH: Array) -> Array:
            logits_QxS = jnp.matmul(q_QxH, k_HxS, preferred_element_type=jnp.float32)
            if mask_S is not None:
                logits_QxS = jnp.where(mask_S, logits_QxS, MASKED)
            weights_QxS = jnp.exp(logits_QxS - logits_QxS.max(-1, keepdims=True))
            out_QxH = jnp.matmul(
                weights_QxS.astype(v_SxH.dtype), v_SxH, preferred_element_type=jnp.float32
            )
            return (out_QxH / weights_QxS.sum(-1, keepdims=True)).astype(v_SxH.dtype)

        return jax.lax.map(attend_block, q_CxQxH)

    out = jax.lax.map(attend_head, tuple(heads)).reshape(b, n, blocks * size, h)
    return out[:, :, :t].transpose(0, 2, 1, 3)


def causal_row_attention(
    q_BxTxNxH: Float[Array, "B T N H"],
    k_BxTxKxH: Float[Array, "B T K H"],
    v_BxTxKxH: Float[Array, "B T K H"],
    mask: Causal,
) -> Float[Array, "B T N H"]:
    """Compute `dot_product_attention` of a language model within the CPU's cache.

    A block of queries is multiplied by the keys up to its last one only: about half of all. Calls
    `dot_product_attention` if there are few logits.
    """
    b, t, n, h = q_BxTxNxH.shape
    k = k_BxTxKxH.shape[2]
    if b * n * t * t <= MAX_CACHED_LOGITS or t * t < MIN_HEAD_LOGITS:
        return dot_product_attention(q_BxTxNxH, k_BxTxKxH, v_BxTxKxH, mask)
    # B and K become one axis, which is looped over
    grouped = (q_BxTxNxH * h**-0.5).reshape(b, t, k, n // k, h).transpose(0, 2, 1, 3, 4)
    allowed_BxTxT = jnp.broadcast_to(mask.array(t)[:, 0], (b, t, t))
    heads = (
        grouped.reshape(b * k, t, n // k, h),
        k_BxTxKxH.transpose(0, 2, 3, 1).reshape(b * k, h, t),
        v_BxTxKxH.transpose(0, 2, 1, 3).reshape(b * k, t, h),
        jnp.arange(b * k) // k,
    )
    size = -(-t // -(-t // MAX_BLOCK_QUERIES))

    def attend_head(arrays: tuple) -> Array:
        q_TxGxH, k_HxT, v_TxH, row = arrays
        allowed_TxT = allowed_BxTxT[row]

        def attend_block(start: int) -> Array:
            stop = min(start + size, t)
            q_QxGxH = q_TxGxH[start:stop]
            logits = jnp.matmul(
                q_QxGxH.reshape(-1, h), k_HxT[:, :stop], preferred_element_type=jnp.float32
            )
            allowed_Qx1xS = allowed_TxT[start:stop, None, :stop]
            logits = jnp.where(allowed_Qx1xS, logits.reshape(*q_QxGxH.shape[:2], stop), MASKED)
            weights = jnp.exp(logits - logits.max(-1, keepdims=True)).reshape(-1, stop)
            out = jnp.matmul(
                weights.astype(v_TxH.dtype), v_TxH[:stop], preferred_element_type=jnp.float32
            )
            out = (out / weights.sum(-1, keepdims=True)).astype(v_TxH.dtype)
            return out.reshape(q_QxGxH.shape)

        return jnp.concatenate([attend_block(start) for start in range(0, t, size)])

    out = jax.lax.map(attend_head, heads).reshape(b, k, t, n // k, h)
    return out.transpose(0, 2, 1, 3, 4).reshape(b, t, n, h)
