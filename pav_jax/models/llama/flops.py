"""Floating point operations of the rewriter's programs by formula, two per multiplication (Kaplan
et al. 2020, arXiv 2001.08361, section 2.1; the attention term as in PaLM, arXiv 2204.02311,
appendix B).

Attention counts every pair of query and key, masked ones too: they are computed. Letters are those
of the model: D width, N query heads, K key/value heads, H head size, F feed-forward, V vocabulary,
L layers.
"""

import dataclasses
import math
from collections.abc import Mapping

from flax import traverse_util

from pav_jax.models.llama import LlamaConfig


@dataclasses.dataclass(frozen=True)
class Forward:
    """Operations of one forward pass, by what is multiplied."""

    layers: float  # with the layers' frozen weights
    attention: float  # queries with keys, probabilities with values
    adapters: float  # with the adapters' weights
    unembed: float  # with the output matrix

    @property
    def total(self) -> float:
        return self.layers + self.attention + self.adapters + self.unembed


def forward(
    c: LlamaConfig, rows: int, tokens: int, keys: int, logits: int, adapter_size: int = 0
) -> Forward:
    """Of `rows` rows with `tokens` new tokens each, that look at `keys` positions.

    Args:
      logits: positions per row whose logits are computed.
      adapter_size: trained numbers of all layers' adapters.
    """
    heads = (c.num_attention_heads + 2 * c.num_key_value_heads) * c.head_dim
    kernels = c.hidden_size * (heads + c.num_attention_heads * c.head_dim + 3 * c.intermediate_size)
    pairs = rows * tokens * keys * c.num_attention_heads * c.head_dim
    return Forward(
        2 * rows * tokens * kernels * c.num_hidden_layers,
        4 * pairs * c.num_hidden_layers,
        2 * rows * tokens * adapter_size,
        2 * rows * logits * c.hidden_size * c.vocab_size,
    )


def adapter_size(adapter: Mapping) -> int:
    """Numbers in an adapter's tree of shapes."""
    return sum(math.prod(leaf.shape) for leaf in traverse_util.flatten_dict(adapter).values())


def train_step(f: Forward, full: bool) -> float:
    """Forward and backward pass, without what is only computed again to save memory.

    A product that is trained costs two more in the backward pass (for its input and for its
    weight), a frozen one costs one; both sides of attention's products are computed, so it costs
    two.
    """
    frozen = 3 if full else 2
    return frozen * (f.layers + f.unembed) + 3 * (f.attention + f.adapters)
