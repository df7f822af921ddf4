"""Attention to keys that all rows share and to keys of each row, without a copy for each row.

Source: Juravsky et al. 2024 (arXiv 2402.05099), section 3: the softmax is decomposed, so that the
products with the shared keys are matrix products over the queries of all rows.

Letters: B batch, T query length, N query heads, K key/value heads, G = N / K, H head size, R shared
keys, S keys of each row, W what an array has for each query.
"""

import functools

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pav_jax.models.attention.dot_product import MASKED


def shared_keys_attention(
    q_BxTxNxH: Float[Array, "B T N H"],
    shared: tuple[Float[Array, "K H R"], Float[Array, "K R H"]],
    own: tuple[Float[Array, "B K H S"], Float[Array, "B K S H"]],
    mask_Bx1xTxRS: Bool[Array, "B 1 T RS"],
    scale: float | None = None,
) -> Float[Array, "B T N H"]:
    """Return softmax(scale * q k^T) v over both kinds of keys, as `dot_product_attention`.

    Args:
      shared, own: keys and values, in the layout of `Block`.
      mask_Bx1xTxRS: R shared keys, then S of the row; True = attend.
      scale: None means H ** -0.5.
    """
    b, t, n, h = q_BxTxNxH.shape
    k, _, r = shared[0].shape
    g = n // k
    factor = h**-0.5 if scale is None else scale
    dot = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)

    def shared_queries(array_BxKxGTxW: Array) -> Float[Array, "K BGT W"]:
        return array_BxKxGTxW.swapaxes(0, 1).reshape(k, b * g * t, -1)

    def own_queries(array_KxBGTxW: Array) -> Float[Array, "B K GT W"]:
        return array_KxBGTxW.reshape(k, b, g * t, -1).swapaxes(0, 1)

    grouped = q_BxTxNxH.reshape(b, t, k, g, h)
    q_BxKxGTxH = grouped.transpose(0, 2, 3, 1, 4).reshape(b, k, g * t, h)
    mask_Bx1xGTxRS = jnp.tile(mask_Bx1xTxRS, (1, 1, g, 1))
    logits = factor * own_queries(dot("kqh,khr->kqr", shared_queries(q_BxKxGTxH), shared[0]))
    logits_shared = jnp.where(mask_Bx1xGTxRS[..., :r], logits, MASKED)
    logits = factor * dot("bkqh,bkhs->bkqs", q_BxKxGTxH, own[0])
    logits_own = jnp.where(mask_Bx1xGTxRS[..., r:], logits, MASKED)
    largest = jnp.maximum(
        logits_shared.max(-1, keepdims=True), logits_own.max(-1, keepdims=True)
    )
    weights_shared = jnp.exp(logits_shared - largest)
    weights_own = jnp.exp(logits_own - largest)
    total = weights_shared.sum(-1, keepdims=True) + weights_own.sum(-1, keepdims=True)
    weights = shared_queries(weights_shared.astype(shared[1].dtype))
    out = own_queries(dot("kqr,krh->kqh", weights, shared[1]))
    out += dot("bkqs,bksh->bkqh", weights_own.astype(own[1].dtype), own[1])
    out = (out / total).astype(own[1].dtype).reshape(b, k, g, t, h)
    return out.transpose(0, 3, 1, 2, 4).reshape(b, t, n, h)
