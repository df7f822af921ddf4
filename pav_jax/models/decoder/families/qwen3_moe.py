"""Qwen3-MoE: Qwen3 with a mixture of experts in every layer."""

from collections.abc import Mapping
from typing import Any

from pav_jax.models.decoder.config import DecoderConfig, Experts, LayerKind
from pav_jax.models.decoder.families import family, tensors
from pav_jax.models.weights import Weight

# transformers' defaults, which files may leave out
DEFAULTS = {"num_key_value_heads": 4}
EXPERTS = {"num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768}
DEFAULT_WINDOW = 4096


def read(fields: Mapping[str, Any], source: str) -> DecoderConfig:
    """Read config.json.

    Raises:
      BadInput: of `family.read_config`; or some layers have no experts.
    """
    reason = "only models whose every layer has experts are supported"
    family.refuse(fields, "mlp_only_layers", source, reason)
    if family.read_integer(fields, "decoder_sparse_step", source, 1) != 1:
        family.refuse(fields, "decoder_sparse_step", source, reason)
    values = {name: value for name, value in fields.items() if value is not None}
    values.setdefault("num_experts", values.get("num_local_experts", EXPERTS["num_experts"]))
    experts = family.read_fields(Experts, {**EXPERTS, **values}, source)
    if experts.num_experts_per_tok > experts.num_experts:
        family.refuse(
            fields, "num_experts_per_tok", source, f"there are {experts.num_experts} experts"
        )
    rope = family.read_rope(fields, source)
    window = None
    if family.read_flag(fields, "use_sliding_window", source):
        window = family.read_integer(fields, "sliding_window", source, DEFAULT_WINDOW)
    depth = family.read_fields(family.RequiredSizes, fields, source).num_hidden_layers
    bias = family.read_flag(fields, "attention_bias", source)
    return family.read_config(
        fields,
        source,
        "qwen3_moe",
        DEFAULTS,
        rope=rope,
        qk_norm=True,
        qkv_bias=bias,
        out_bias=bias,
        experts=experts,
        layer_kinds=() if window is None else (LayerKind(window, rope),) * depth,
    )


def write(config: DecoderConfig) -> dict[str, Any]:
    """Return the fields of config.json that Qwen3-MoE has of its own."""
    experts = config.experts
    assert experts is not None
    window = config.kind(0).window
    return {
        "attention_bias": config.qkv_bias,
        "num_experts": experts.num_experts,
        "num_experts_per_tok": experts.num_experts_per_tok,
        "moe_intermediate_size": experts.moe_intermediate_size,
        "norm_topk_prob": experts.norm_topk_prob,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "use_sliding_window": window is not None,
        "sliding_window": window,
        **family.write_rope(config.rope),
    }


def weights(config: DecoderConfig) -> list[Weight]:
    """Return the table of tensors; those of a layer's experts are stacked."""
    assert config.experts is not None
    layers = config.num_hidden_layers
    rows = [Weight("model.embed_tokens.weight", "embed", "same", ("vocab", "embed"))]
    rows += tensors.attention_weights(config)
    rows.append(
        Weight(
            f"{tensors.LAYER}.mlp.gate.weight",
            "layers/mlp/router",
            "linear",
            (None, "embed", None),
            layers,
        )
    )
    for name, axes in tensors.MLP_AXES.items():
        rows.append(
            Weight(
                f"{tensors.LAYER}.mlp.experts.{{expert}}.{name}.weight",
                f"layers/mlp/{name}",
                "linear",
                (None, "expert", *axes),
                layers,
                experts=config.experts.num_experts,
            )
        )
    return rows + tensors.norm_weights(config, tensors.NORMS) + tensors.head_weights(config)


FAMILY = family.Family("qwen3_moe", "Qwen3MoeForCausalLM", read, write, weights)
