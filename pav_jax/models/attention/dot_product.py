"""Plain scaled dot-product attention, and masks that are described by a rule.

Source: Vaswani et al. 2017 (arXiv 1706.03762); grouped queries: Ainslie et al. 2023 (arXiv
2305.13245).

Letters: B batch, T query length, S key length, N query heads, K key/value heads (K divides N),
G = N / K, H head size.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

# Finite, so that a query whose keys are all masked gives an average instead of NaN.
MASKED = -1e30


@struct.dataclass
class Causal:
    """The rule that token t attends to tokens s <= t of its own segment.

    Kernels apply the rule without making the mask array.

    Attributes:
      segment_ids_BxT: None if each row is one segment.
      window: attend only to tokens s > t - window; None: to all before t.
    """

    segment_ids_BxT: Int[Array, "B T"] | None = None
    window: int | None = struct.field(pytree_node=False, default=None)

    def array(self, length: int) -> Bool[Array, "... 1 T T"]:
        """Return the mask, [1 or B, 1, T, T]; True = attend."""
        mask = jnp.tril(jnp.ones((length, length), bool))[None, None]
        if self.window is not None:
            mask &= ~jnp.tril(mask, -self.window)
        ids = self.segment_ids_BxT
        if ids is None:
            return mask
        return mask & (ids[:, :, None] == ids[:, None, :])[:, None]


@struct.dataclass
class FirstKeys:
    """The rule that every query attends to the first `count` keys; the others are padding."""

    count: int = struct.field(pytree_node=False)

    def array(self, length: int) -> Bool[Array, "1 1 1 S"]:
        """Return the mask over `length` keys; True = attend."""
        return (jnp.arange(length) < self.count)[None, None, None]


def mask_array(
    mask: Bool[Array, "..."] | Causal | FirstKeys | None, length: int
) -> Bool[Array, "..."] | None:
    """Return a mask as an array over `length` keys, or None."""
    return mask.array(length) if isinstance(mask, Causal | FirstKeys) else mask


def dot_product_attention(
    q_BxTxNxH: Float[Array, "B T N H"],
    k_BxSxKxH: Float[Array, "B S K H"],
    v_BxSxKxH: Float[Array, "B S K H"],
    mask: Bool[Array, "..."] | Causal | FirstKeys | None = None,
    bias: Float[Array, "..."] | None = None,
    scale: float | None = None,
) -> Float[Array, "B T N H"]:
    """Return softmax(scale * q k^T + bias) v, with grouped queries if K < N.

    The softmax runs in float32, the products in the dtype of the inputs.

    Args:
      mask: broadcastable to [B, N, T, S]; True = attend.
      bias: added to the scaled logits, broadcastable to [B, N, T, S].
      scale: None means H ** -0.5 (Vaswani et al. 2017, section 3.2.1).
    """
    b, t, n, h = q_BxTxNxH.shape
    s, k = k_BxSxKxH.shape[1:3]
    mask = mask_array(mask, s)
    factor = h**-0.5 if scale is None else scale
    if k == n:
        logits_BxNxTxS = jnp.einsum(
            "btnh,bsnh->bnts", q_BxTxNxH, k_BxSxKxH, preferred_element_type=jnp.float32
        )
    else:
        q_BxTxKxGxH = q_BxTxNxH.reshape(b, t, k, n // k, h)
        logits = jnp.einsum(
            "btkgh,bskh->bkgts", q_BxTxKxGxH, k_BxSxKxH, preferred_element_type=jnp.float32
        )
        logits_BxNxTxS = logits.reshape(b, n, t, s)
    logits_BxNxTxS = logits_BxNxTxS * factor
    if bias is not None:
        logits_BxNxTxS = logits_BxNxTxS + bias.astype(jnp.float32)
    if mask is not None:
        logits_BxNxTxS = jnp.where(mask, logits_BxNxTxS, MASKED)
    # Dividing after the product with the values takes T x H divisions instead of T x S, and keeps
    # XLA's CPU back end from evaluating the exponential twice: three times faster there.
    max_BxNxTx1 = jax.lax.stop_gradient(logits_BxNxTxS.max(-1, keepdims=True))
    weights_BxNxTxS = jnp.exp(logits_BxNxTxS - max_BxNxTx1)
    total_BxNxTx1 = weights_BxNxTxS.sum(-1, keepdims=True)
    weights_BxNxTxS = weights_BxNxTxS.astype(v_BxSxKxH.dtype)
    if k == n:
        out_BxNxTxH = jnp.einsum(
            "bnts,bsnh->bnth", weights_BxNxTxS, v_BxSxKxH, preferred_element_type=jnp.float32
        )
    else:
        grouped = weights_BxNxTxS.reshape(b, k, n // k, t, s)
        out = jnp.einsum(
            "bkgts,bskh->bkgth", grouped, v_BxSxKxH, preferred_element_type=jnp.float32
        )
        out_BxNxTxH = out.reshape(b, n, t, h)
    return (out_BxNxTxH / total_BxNxTx1).astype(v_BxSxKxH.dtype).transpose(0, 2, 1, 3)
