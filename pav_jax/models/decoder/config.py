"""Sizes and switches of a decoder language model.

One dataclass covers all families (`families/`). What differs between them is a static field here,
so that a compiled program holds only what its model needs.
"""

import dataclasses

from pav_jax.models.decoder.rotary import Rope
from pav_jax.typed_fields import Depth, NonNegative, OptionalTokenId, Positive, TokenId


@dataclasses.dataclass(frozen=True)
class LayerKind:
    """What differs between the layers of one model.

    Attributes:
      window: a token attends to this many tokens, itself included; None: to all before it.
      rope: rotary positions; None: the layer has none.
    """

    window: int | None = None
    rope: Rope | None = dataclasses.field(default_factory=Rope)


@dataclasses.dataclass(frozen=True)
class Experts:
    """A mixture of experts in place of the MLP; names as in config.json of qwen3_moe.

    Attributes:
      num_experts: MLPs per layer.
      num_experts_per_tok: experts that each token uses.
      moe_intermediate_size: units of one expert.
      norm_topk_prob: whether the weights of a token's experts sum to 1.
    """

    num_experts: int
    num_experts_per_tok: int
    moe_intermediate_size: int
    norm_topk_prob: bool = False


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """Sizes and switches; names as in config.json where transformers has the same field.

    Attributes:
      model_type: the family, which decides the names of fields and tensors in a checkpoint.
      qkv_bias, out_bias, mlp_bias: biases of q/k/v_proj, of o_proj, and of the MLP.
      qk_norm: RMSNorm of each query and key head before the rotary positions.
      norm_offset: the RMSNorm factor is `norm_offset + scale`; 1 in Gemma.
      post_norms: norm what attention and MLP return before it is added to the residual stream.
      embedding_scale: embeddings are multiplied by it.
      attention_scale: of queries with keys; None: head_dim ** -0.5.
      rotary_dim: leading features of a head that are rotated; None: all.
      rope: of all layers, if `layer_kinds` is empty.
      layer_kinds: one per layer, where layers differ or attention has a window.
      experts: None: each layer has one MLP of `intermediate_size` units.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: Depth
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    model_type: str = "llama"
    max_position_embeddings: int = 2048
    rms_norm_eps: NonNegative = 1e-6
    hidden_act: str = "silu"
    tie_word_embeddings: bool = False
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    norm_offset: NonNegative = 0.0
    post_norms: bool = False
    embedding_scale: Positive = 1.0
    attention_scale: Positive | None = None
    rotary_dim: int | None = None
    rope: Rope = dataclasses.field(default_factory=Rope)
    layer_kinds: tuple[LayerKind, ...] = ()
    experts: Experts | None = None
    initializer_range: NonNegative = 0.02
    bos_token_id: OptionalTokenId | None = None
    eos_token_id: OptionalTokenId | tuple[TokenId, ...] | None = None
    pad_token_id: OptionalTokenId | None = None

    def kind(self, layer: int) -> LayerKind:
        """Return the window and the rotary positions of one layer."""
        return self.layer_kinds[layer] if self.layer_kinds else LayerKind(None, self.rope)

    @property
    def kinds(self) -> tuple[LayerKind, ...]:
        """The different kinds of layers, in the order of their first layer."""
        return tuple(dict.fromkeys(self.kind(i) for i in range(self.num_hidden_layers)))

    @property
    def kind_ids(self) -> tuple[int, ...]:
        """The index into `kinds` of each layer."""
        return tuple(self.kinds.index(self.kind(i)) for i in range(self.num_hidden_layers))
