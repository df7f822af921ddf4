"""A mixture of experts: each token uses a few of many MLPs (Shazeer et al. 2017, arXiv 1701.06538),
chosen and weighted as in Qwen3-MoE (transformers' `Qwen3MoeSparseMoeBlock`).

The rows of all tokens are sorted by expert, so that each weight matrix multiplies one contiguous
group of rows (`jax.lax.ragged_dot`) and no product is computed for an expert that is not used.

Letters: B batch, T tokens, D width, E experts, C experts per token, F units of an expert, M = B T
tokens in all.
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
        x_MxD = x_BxTxD.reshape(-1, d)
        logits_MxE = (x_MxD @ router_DxE.astype(self.dtype)).astype(jnp.float32)
        weights_MxC, ids_MxC = jax.lax.top_k(
            jax.nn.softmax(logits_MxE, axis=-1), experts.num_experts_per_tok
        )
        if experts.norm_topk_prob:
            weights_MxC = weights_MxC / weights_MxC.sum(-1, keepdims=True)
        weights = [w.astype(self.dtype) for w in (gate_ExDxF, up_ExDxF, down_ExFxD)]
        out_MxD = self.sum_experts_fn(
            x_MxD, weights_MxC.astype(self.dtype), ids_MxC, *weights, activation=c.hidden_act
        )
        return out_MxD.reshape(x_BxTxD.shape)


def sum_experts(
    x_MxD: Float[Array, "M D"],
    weights_MxC: Float[Array, "M C"],
    ids_MxC: Int[Array, "M C"],
    gate_ExDxF: Float[Array, "E D F"],
    up_ExDxF: Float[Array, "E D F"],
    down_ExFxD: Float[Array, "E F D"],
    *,
    activation: str,
    first_expert: int | Array = 0,
) -> Float[Array, "M D"]:
    """Return the weighted sum of each token's experts.

    Args:
      ids_MxC: the experts of each token.
      activation: key of `ACTIVATIONS`.
      first_expert: id of the first of the E experts; tokens of experts that are not among them get
        zeros from these.
    """
    m, c = ids_MxC.shape
    num_experts = gate_ExDxF.shape[0]
    ids_MC = ids_MxC.reshape(-1) - first_expert
    is_here_MC = (ids_MC >= 0) & (ids_MC < num_experts)
    # rows of experts elsewhere come last, after all groups
    order_MC = jnp.argsort(jnp.where(is_here_MC, ids_MC, num_experts), stable=True)
    sizes_E = jnp.sum(ids_MC[:, None] == jnp.arange(num_experts), axis=0, dtype=jnp.int32)
    rows_MCxD = x_MxD[order_MC // c]
    gate_MCxF = ACTIVATIONS[activation](jax.lax.ragged_dot(rows_MCxD, gate_ExDxF, sizes_E))
    up_MCxF = jax.lax.ragged_dot(rows_MCxD, up_ExDxF, sizes_E)
    out_MCxD = jax.lax.ragged_dot(gate_MCxF * up_MCxF, down_ExFxD, sizes_E)
    # what `ragged_dot` leaves in rows after all groups is undefined
    factors_MC = weights_MxC.reshape(-1)[order_MC]
    out_MCxD = jnp.where(is_here_MC[order_MC, None], out_MCxD * factors_MC[:, None], 0)
    return jnp.zeros((m, x_MxD.shape[1]), out_MCxD.dtype).at[order_MC // c].add(out_MCxD)
