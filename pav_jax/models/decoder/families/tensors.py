"""Tables of a decoder's tensors, made of the switches of its configuration."""

from pav_jax.models.decoder.config import DecoderConfig
from pav_jax.models.weights import Weight

LAYER = "model.layers.{layer}"
ATTENTION_AXES = {
    "q_proj": ("embed", "heads"),
    "k_proj": ("embed", "kv_heads"),
    "v_proj": ("embed", "kv_heads"),
    "o_proj": ("heads", "embed"),
}
MLP_AXES = {
    "gate_proj": ("embed", "mlp"),
    "up_proj": ("embed", "mlp"),
    "down_proj": ("mlp", "embed"),
}
# our name -> the tensor's, in most families
NORMS = {"input_norm": "input_layernorm", "post_norm": "post_attention_layernorm"}


def standard_weights(config: DecoderConfig, norms: dict[str, str] | None = None) -> list[Weight]:
    """Return the table of a family whose tensors are named as Llama's.

    Args:
      norms: our name of each norm of a layer -> its tensor's name.
    """
    rows = [Weight("model.embed_tokens.weight", "embed", "same", ("vocab", "embed"))]
    rows += attention_weights(config) + mlp_weights(config)
    return rows + norm_weights(config, norms or NORMS) + head_weights(config)


def attention_weights(config: DecoderConfig) -> list[Weight]:
    """Return the rows of q/k/v/o_proj and of the norms of queries and keys."""
    layers = config.num_hidden_layers
    rows = []
    for name, axes in ATTENTION_AXES.items():
        bias = config.out_bias if name == "o_proj" else config.qkv_bias
        rows += dense(f"{LAYER}.self_attn.{name}", f"layers/attention/{name}", axes, bias, layers)
    if config.qk_norm:
        for name in ("q_norm", "k_norm"):
            rows.append(
                Weight(
                    f"{LAYER}.self_attn.{name}.weight",
                    f"layers/attention/{name}/scale",
                    "same",
                    (None, None),
                    layers,
                )
            )
    return rows


def mlp_weights(config: DecoderConfig) -> list[Weight]:
    """Return the rows of gate/up/down_proj."""
    rows = []
    for name, axes in MLP_AXES.items():
        rows += dense(
            f"{LAYER}.mlp.{name}",
            f"layers/mlp/{name}",
            axes,
            config.mlp_bias,
            config.num_hidden_layers,
        )
    return rows


def norm_weights(config: DecoderConfig, names: dict[str, str]) -> list[Weight]:
    """Return the rows of each layer's norms and of the last one."""
    layers = config.num_hidden_layers
    rows = [
        Weight(f"{LAYER}.{hf}.weight", f"layers/{name}/scale", "same", (None, None), layers)
        for name, hf in names.items()
    ]
    return [*rows, Weight("model.norm.weight", "norm/scale", "same", (None,))]


def head_weights(config: DecoderConfig) -> list[Weight]:
    """Return the row of the output matrix, if it is not that of the embeddings."""
    if config.tie_word_embeddings:
        return []
    return [Weight("lm_head.weight", "lm_head", "linear", ("embed", "vocab"))]


def dense(hf: str, path: str, axes: tuple[str, str], bias: bool, layers: int) -> list[Weight]:
    """Return the rows of a dense layer.

    Args:
      hf: tensor name without ".weight" and ".bias".
      path: of the layer, without "/kernel" and "/bias".
      axes: logical axes of its inputs and outputs.
    """
    rows = [Weight(f"{hf}.weight", f"{path}/kernel", "linear", (None, *axes), layers)]
    if bias:
        rows.append(Weight(f"{hf}.bias", f"{path}/bias", "same", (None, axes[1]), layers))
    return rows
