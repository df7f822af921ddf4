"""Phi-3 and Phi-4: Llama whose q/k/v_proj are rows of one tensor, as are gate_proj and up_proj."""

from collections.abc import Mapping
from typing import Any

from pav_jax.errors import BadInput
from pav_jax.models.decoder.config import DecoderConfig, LayerKind
from pav_jax.models.decoder.families import family, tensors
from pav_jax.models.weights import Weight
from pav_jax.typed_fields import Fraction, check_object

DEFAULTS = {"rms_norm_eps": 1e-5}


def read(fields: Mapping[str, Any], source: str) -> DecoderConfig:
    """Read config.json.

    Raises:
      BadInput: of `family.read_config`; or the rotary positions are "longrope".
    """
    _check_rope_type(fields, source)
    rope = family.read_rope(fields, source)
    sizes = family.read_fields(family.RequiredSizes, fields, source)
    window = family.read_integer(fields, "sliding_window", source)
    kinds = () if window is None else (LayerKind(window, rope),) * sizes.num_hidden_layers
    head_dim = fields.get("head_dim") or sizes.hidden_size // sizes.num_attention_heads
    head_dim = family.read_value(head_dim, int, source, "head_dim")
    rotary_dim = int(head_dim * _rotary_factor(fields, source))
    if rotary_dim < 1 or rotary_dim % 2:
        raise BadInput(
            f"{source}: partial_rotary_factor leaves {rotary_dim} of {head_dim} features of a head;"
            " an even number is needed",
            source=source,
            field="partial_rotary_factor",
        )
    return family.read_config(
        fields,
        source,
        "phi3",
        DEFAULTS,
        rope=rope,
        rotary_dim=None if rotary_dim == head_dim else rotary_dim,
        layer_kinds=kinds,
    )


def _check_rope_type(fields: Mapping[str, Any], source: str) -> None:
    """Phi-3 files say "su" or "yarn" for its own stretching, which transformers calls longrope."""
    section = "rope_parameters" if fields.get("rope_parameters") else "rope_scaling"
    parameters = check_object(fields.get(section) or {}, source, section)
    kind = parameters.get("rope_type") or parameters.get("type") or "default"
    if kind != "default":
        raise BadInput(
            f"{source}: rope_type is {str(kind)[:60]!r}, the longrope of Phi-3's 128k models, which"
            " is not supported; use the 4k model",
            source=source,
            field="rope_type",
        )


def _rotary_factor(fields: Mapping[str, Any], source: str) -> float:
    parameters = fields.get("rope_parameters") or {}
    factor = parameters.get("partial_rotary_factor") or fields.get("partial_rotary_factor") or 1.0
    return family.read_value(factor, Fraction, source, "partial_rotary_factor")


def write(config: DecoderConfig) -> dict[str, Any]:
    """Return the fields of config.json that Phi-3 has of its own."""
    length = config.max_position_embeddings
    return {
        "sliding_window": config.kind(0).window,
        "original_max_position_embeddings": length,
        "partial_rotary_factor": (config.rotary_dim or config.head_dim) / config.head_dim,
        **family.write_rope(config.rope),
    }


def weights(config: DecoderConfig) -> list[Weight]:
    """Return the table of tensors. Rows of `qkv_proj` are those of q, then k, then v."""
    layers = config.num_hidden_layers
    heads = config.num_attention_heads * config.head_dim
    kv_heads = config.num_key_value_heads * config.head_dim
    units = config.intermediate_size
    rows = [Weight("model.embed_tokens.weight", "embed", "same", ("vocab", "embed"))]
    for hf, module, axes, sizes in (
        (
            "self_attn.qkv_proj",
            "attention",
            tensors.ATTENTION_AXES,
            {"q_proj": heads, "k_proj": kv_heads, "v_proj": kv_heads},
        ),
        ("mlp.gate_up_proj", "mlp", tensors.MLP_AXES, {"gate_proj": units, "up_proj": units}),
    ):
        total = sum(sizes.values())
        start = 0
        for name, size in sizes.items():
            rows.append(
                Weight(
                    f"{tensors.LAYER}.{hf}.weight",
                    f"layers/{module}/{name}/kernel",
                    "linear",
                    (None, *axes[name]),
                    layers,
                    rows=(start, start + size, total),
                )
            )
            start += size
    rows += [
        row
        for row in tensors.attention_weights(config) + tensors.mlp_weights(config)
        if row.path.endswith(("o_proj/kernel", "down_proj/kernel"))
    ]
    return rows + tensors.norm_weights(config, tensors.NORMS) + tensors.head_weights(config)


FAMILY = family.Family("phi3", "Phi3ForCausalLM", read, write, weights)
