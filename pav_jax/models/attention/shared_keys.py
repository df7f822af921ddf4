"""Attention to keys that all rows share and to keys of each row, without a copy for each row.

Source: Juravsky et al. 2024 (arXiv 2402.05099), section 3: the softmax is decomposed, so that the
products with the shared keys are matrix products over the queries of all rows.

Letters: B batch, T query length, N query heads, K key/value heads, G = N / K, H head size, R shared
keys, S keys of each row, Q = B T G queries of a key/value head.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pav_jax.models.attention.dot_product import MASKED


def shared_keys_attention(
    q_BxTxNxH: Float[Array, "B T N H"],
    shared: tuple[Float[Array, "K R H"], Float[Array, "K R H"]],
    own: tuple[Float[Array, "B K S H"], Float[Array, "B K S H"]],
    mask_Bx1xTxRS: Bool[Array, "B 1 T RS"],
    scale: float | None = None,
) -> Float[Array, "B T N H"]:
    """Return softmax(scale * q k^T) v over both kinds of keys, as `dot_product_attention`.

    Args:
      shared, own: keys and values.
      mask_Bx1xTxRS: R shared keys, then S of the row; True = attend.
      scale: None means H ** -0.5.
    """
    b, t, n, h = q_BxTxNxH.shape
    k, r, _ = shared[0].shape
    g = n // k
    factor = h**-0.5 if scale is None else scale
    mask_Bx1x1xTxRS = mask_Bx1xTxRS[:, :, None]

    grouped = q_BxTxNxH.reshape(b, t, k, g, h)
    q_KxQxH = grouped.transpose(2, 0, 3, 1, 4).reshape(k, b * g * t, h)
    logits_KxQxR = factor * jnp.einsum(
        "kqh,krh->kqr", q_KxQxH, shared[0], preferred_element_type=jnp.float32
    )
    mask_QxR = jnp.broadcast_to(mask_Bx1x1xTxRS[:, 0, :, :, :r], (b, g, t, r)).reshape(-1, r)
    max_shared, weights, total_shared = _softmax_terms(logits_KxQxR, mask_QxR)
    out_shared = jnp.einsum(
        "kqr,krh->kqh",
        weights.astype(shared[1].dtype),
        shared[1],
        preferred_element_type=jnp.float32,
    )

    logits = factor * jnp.einsum(
        "btkgh,bksh->bkgts", grouped, own[0], preferred_element_type=jnp.float32
    )
    max_own, weights, total_own = _softmax_terms(logits, mask_Bx1x1xTxRS[..., r:])
    out_own = jnp.einsum(
        "bkgts,bksh->bkgth",
        weights.astype(own[1].dtype),
        own[1],
        preferred_element_type=jnp.float32,
    )

    def rows(array: Array) -> Float[Array, "B K G T W"]:
        return array.reshape(k, b, g, t, -1).swapaxes(0, 1)

    # the two sums, relative to the larger of the two maxima
    max_shared, total_shared, out_shared = map(rows, (max_shared, total_shared, out_shared))
    largest = jnp.maximum(max_shared, max_own)
    share = jnp.exp(max_shared - largest)
    share_own = jnp.exp(max_own - largest)
    out = (share * out_shared + share_own * out_own) / (
        share * total_shared + share_own * total_own
    )
    return out.astype(own[1].dtype).transpose(0, 3, 1, 2, 4).reshape(b, t, n, h)


def _softmax_terms(logits: Array, mask: Array) -> tuple[Array, Array, Array]:
    """The largest logit, exp(logit - largest), and its sum."""
    masked = jnp.where(mask, logits, MASKED)
    largest = masked.max(-1, keepdims=True)
    weights = jnp.exp(masked - largest)
    return largest, weights, weights.sum(-1, keepdims=True)
