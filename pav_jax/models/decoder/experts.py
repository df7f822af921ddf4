"""A mixture of experts: each token uses a few of many MLPs (Shazeer et al. 2017, arXiv 1701.06538),
chosen and weighted as in Qwen3-MoE (transformers' `Qwen3MoeSparseMoeBlock`).

The rows of all tokens are sorted by expert, so that each weight matrix multiplies one contiguous
group of rows (`jax.lax.ragged_dot`) and no product is computed for an expert that is not used.

Letters: B batch, T tokens, D width, E experts, C experts per token, F units of an expert, M = B T C
rows to multiply.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pav_jax.models.decoder.config import DecoderConfig
from pav_jax.models.layers import ACTIVATIONS


class ExpertMLP(nn.Module):
    """The sum of a token's experts, weighted by the router: [B, T, D] -> [B, T, D].

    Attributes:
      sum_experts_fn: with the signature of `sum_experts`.
    """

    config: DecoderConfig
    dtype: Any
    sum_experts_fn: Callable[..., Array]

    @nn.compact
    def __call__(self, x_BxTxD: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        c = self.config
        experts = c.experts
        assert experts is not None
        d, e, f = c.hidden_size, experts.num_experts, experts.moe_intermediate_size
        init = nn.initializers.normal(c.initializer_range)
        router_DxE = self.param("router", init, (d, e), jnp.float32)
        gate_ExDxF = self.param("gate_proj", init, (e, d, f), jnp.float32)
        up_ExDxF = self.param("up_proj", init, (e, d, f), jnp.float32)
        down_ExFxD = self.param("down_proj", init, (e, f, d), jnp.float32)
        logits_BxTxE = (x_BxTxD @ router_DxE.astype(self.dtype)).astype(jnp.float32)
        factors_BxTxC, ids_BxTxC = jax.lax.top_k(
            jax.nn.softmax(logits_BxTxE, axis=-1), experts.num_experts_per_tok
        )
        if experts.norm_topk_prob:
            factors_BxTxC = factors_BxTxC / factors_BxTxC.sum(-1, keepdims=True)
        weights = [w.astype(self.dtype) for w in (gate_ExDxF, up_ExDxF, down_ExFxD)]
        return self.sum_experts_fn(
            x_BxTxD, factors_BxTxC.astype(self.dtype), ids_BxTxC, *weights, activation=c.hidden_act
        )


def sum_experts(
    x_BxTxD: Float[Array, "B T D"],
    factors_BxTxC: Float[Array, "B T C"],
    ids_BxTxC: Int[Array, "B T C"],
    gate_ExDxF: Float[Array, "E D F"],
    up_ExDxF: Float[Array, "E D F"],
    down_ExFxD: Float[Array, "E F D"],
    *,
    activation: str,
    first_expert: int | Array = 0,
) -> Float[Array, "B T D"]:
    """Return the weighted sum of each token's experts.

    Args:
      factors_BxTxC, ids_BxTxC: the weights and the numbers of each token's experts.
      activation: key of `ACTIVATIONS`.
      first_expert: id of the first of the E experts; tokens of experts that are not among them get
        zeros from these.
    """
    c = ids_BxTxC.shape[-1]
    num_experts = gate_ExDxF.shape[0]
    x_BTxD = x_BxTxD.reshape(-1, x_BxTxD.shape[-1])
    ids_M = ids_BxTxC.reshape(-1) - first_expert
    is_here_M = (ids_M >= 0) & (ids_M < num_experts)
    # rows of experts elsewhere come last, after all groups
    order_M = jnp.argsort(jnp.where(is_here_M, ids_M, num_experts), stable=True)
    sizes_E = jnp.sum(ids_M[:, None] == jnp.arange(num_experts), axis=0, dtype=jnp.int32)
    rows_MxD = x_BTxD[order_M // c]
    gate_MxF = ACTIVATIONS[activation](jax.lax.ragged_dot(rows_MxD, gate_ExDxF, sizes_E))
    up_MxF = jax.lax.ragged_dot(rows_MxD, up_ExDxF, sizes_E)
    out_MxD = jax.lax.ragged_dot(gate_MxF * up_MxF, down_ExFxD, sizes_E)
    # what `ragged_dot` leaves in rows after all groups is undefined
    factors_M = factors_BxTxC.reshape(-1)[order_M]
    out_MxD = jnp.where(is_here_M[order_M, None], out_MxD * factors_M[:, None], 0)
    out_BTxD = jnp.zeros(x_BTxD.shape, out_MxD.dtype).at[order_M // c].add(out_MxD)
    return out_BTxD.reshape(x_BxTxD.shape)
