"""Attention to cached keys: those that all rows share, without a copy for each row, and each row's.

Source: Juravsky et al. 2024 (arXiv 2402.05099), section 3: the softmax is decomposed, so that the
products with the shared keys are matrix products over the queries of all rows.

Letters: B batch, T query length, N query heads, K key/value heads, G = N / K, Q = G T queries of a
key/value head, H head size, R shared keys, S keys of each row, X, Y axes of a product.
"""

import functools
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pav_jax.models.attention.dot_product import MASKED


def cached_attention(
    q_BxTxNxH: Float[Array, "B T N H"],
    shared: tuple[Float[Array, "K H R"], Float[Array, "K R H"]] | None,
    own: tuple[Float[Array, "B K H S"], Float[Array, "B K S H"]],
    mask_Bx1xTxRS: Bool[Array, "B 1 T RS"],
    scale: float | None = None,
) -> Float[Array, "B T N H"]:
    """Return softmax(scale * q k^T) v over both kinds of keys, as `dot_product_attention`.

    Args:
      shared: keys and values of all rows, if there are any; R is 0 for None.
      own: keys and values of each row.
      mask_Bx1xTxRS: R shared keys, then S of the row; True = attend.
      scale: None means H ** -0.5.
    """
    b, t, n, h = q_BxTxNxH.shape
    k, s = own[1].shape[1:3]
    g = n // k
    factor = h**-0.5 if scale is None else scale
    grouped = q_BxTxNxH.reshape(b, t, k, g, h)
    q_BxKxQxH = grouped.transpose(0, 2, 3, 1, 4).reshape(b, k, g * t, h)
    mask_Bx1xQxRS = jnp.tile(mask_Bx1xTxRS, (1, 1, g, 1))
    kinds: list[tuple[Any, Any, Array]] = [(_dot_own, own, mask_Bx1xQxRS[..., -s:])]
    if shared is not None:
        kinds.append((_dot_shared, shared, mask_Bx1xQxRS[..., :-s]))
    logits = [
        jnp.where(mask, factor * dot(q_BxKxQxH, keys), MASKED) for dot, (keys, _), mask in kinds
    ]
    largest = functools.reduce(jnp.maximum, [a.max(-1, keepdims=True) for a in logits])
    weights = [jnp.exp(a - largest) for a in logits]
    outs = [
        dot(a.astype(values.dtype), values)
        for a, (dot, (_, values), _) in zip(weights, kinds, strict=True)
    ]
    totals = [a.sum(-1, keepdims=True) for a in weights]
    out = functools.reduce(jnp.add, outs) / functools.reduce(jnp.add, totals)
    out = out.astype(own[1].dtype).reshape(b, k, g, t, h)
    return out.transpose(0, 3, 1, 2, 4).reshape(b, t, n, h)


def _dot_own(
    a_BxKxQxX: Float[Array, "B K Q X"], b_BxKxXxY: Float[Array, "B K X Y"]
) -> Float[Array, "B K Q Y"]:
    """Multiply by keys or values of each row; returns float32."""
    return jnp.einsum("bkqx,bkxy->bkqy", a_BxKxQxX, b_BxKxXxY, preferred_element_type=jnp.float32)


def _dot_shared(
    a_BxKxQxX: Float[Array, "B K Q X"], b_KxXxY: Float[Array, "K X Y"]
) -> Float[Array, "B K Q Y"]:
    """Multiply by shared keys or values, all rows in one product; returns float32."""
    b, k, q, x = a_BxKxQxX.shape
    flat_KxBQxX = a_BxKxQxX.swapaxes(0, 1).reshape(k, b * q, x)
    out = jnp.einsum("kqx,kxy->kqy", flat_KxBQxX, b_KxXxY, preferred_element_type=jnp.float32)
    return out.reshape(k, b, q, -1).swapaxes(0, 1)
