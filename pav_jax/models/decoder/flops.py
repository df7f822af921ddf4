"""Floating point operations of the rewriter's programs by formula.

A multiplication and an addition count as two operations (Kaplan et al. 2020, arXiv 2001.08361,
section 2.1; the attention term as in PaLM, arXiv 2204.02311, appendix B). Attention counts every
pair of query and key, masked ones and those outside a window too, if they are computed. Of
experts only those that a token uses count, and the router.

Letters as in the model: D width, N query heads, K key/value heads, H head size, F feed-forward, V
vocabulary, L layers.
"""

import dataclasses
from collections.abc import Sequence

from pav_jax.models.decoder import DecoderConfig


@dataclasses.dataclass(frozen=True)
class ForwardFlops:
    """Operations of one forward pass, by the matrices that are multiplied.

    Attributes:
      layers: with the frozen weights of the layers.
      attention: queries with keys, and probabilities with values.
      adapters: with the LoRA weights.
      unembed: with the output matrix.
    """

    layers: float
    attention: float
    adapters: float
    unembed: float

    @property
    def total(self) -> float:
        """The sum of all four."""
        return self.layers + self.attention + self.adapters + self.unembed


def forward(
    config: DecoderConfig,
    rows: int,
    tokens: int,
    keys: int | Sequence[int],
    logits: int,
    adapter_size: int = 0,
) -> ForwardFlops:
    """Count the operations of one forward pass.

    Args:
      rows: of the batch.
      tokens: new tokens per row.
      keys: positions that each token attends to, of all layers or of each layer.
      logits: positions per row whose logits are computed.
      adapter_size: LoRA parameters of all layers.
    """
    heads_size = config.num_attention_heads * config.head_dim
    qkv_size = heads_size + 2 * config.num_key_value_heads * config.head_dim
    layer_size = config.hidden_size * (qkv_size + heads_size + _mlp_units(config))
    layers_keys = [keys] * config.num_hidden_layers if isinstance(keys, int) else keys
    return ForwardFlops(
        layers=2 * rows * tokens * layer_size * config.num_hidden_layers,
        attention=4 * rows * tokens * sum(layers_keys) * heads_size,
        adapters=2 * rows * tokens * adapter_size,
        unembed=2 * rows * logits * config.hidden_size * config.vocab_size,
    )


def _mlp_units(config: DecoderConfig) -> int:
    """Weights of the MLP that a token is multiplied with, per hidden unit of the model."""
    experts = config.experts
    if experts is None:
        return 3 * config.intermediate_size
    return experts.num_experts + 3 * experts.num_experts_per_tok * experts.moe_intermediate_size


def training_step(flops: ForwardFlops, full: bool) -> float:
    """Count the operations of forward and backward pass, without what remat recomputes.

    A trained matrix costs two more products in the backward pass (for its input's and its own
    gradient), a frozen one costs one more. Both factors of attention's products are computed, so
    attention costs two more.

    Args:
      flops: of the forward pass.
      full: whether all weights are trained, instead of adapters on frozen weights.
    """
    weight_products = 3 if full else 2
    trained_products = 3 * (flops.attention + flops.adapters)
    return weight_products * (flops.layers + flops.unembed) + trained_products
