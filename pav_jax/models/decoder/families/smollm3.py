"""SmolLM3: Llama without rotary positions in every fourth layer."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from pav_jax.errors import BadInput
from pav_jax.models.decoder.config import DecoderConfig, LayerKind
from pav_jax.models.decoder.families import family

DEFAULTS = {"tie_word_embeddings": True, "num_key_value_heads": 4}
DEFAULT_THETA = 2_000_000.0
DEFAULT_INTERVAL = 4


def read(fields: Mapping[str, Any], source: str) -> DecoderConfig:
    """Read config.json."""
    bias = family.read_flag(fields, "attention_bias", source)
    config = family.read_config(
        fields,
        source,
        "smollm3",
        DEFAULTS,
        rope=family.read_rope(fields, source, DEFAULT_THETA),
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=family.read_flag(fields, "mlp_bias", source),
    )
    return dataclasses.replace(config, layer_kinds=_layer_kinds(config, fields, source))


def _layer_kinds(
    config: DecoderConfig, fields: Mapping[str, Any], source: str
) -> tuple[LayerKind, ...]:
    depth = config.num_hidden_layers
    interval = family.read_integer(fields, "no_rope_layer_interval", source, DEFAULT_INTERVAL)
    assert interval is not None
    has_rope = fields.get("no_rope_layers")  # despite its name, 1 means that a layer has them
    if has_rope is None:
        has_rope = [int((i + 1) % interval != 0) for i in range(depth)]
    has_rope = family.read_value(has_rope, tuple[family.LayerIndex, ...], source, "no_rope_layers")
    if len(has_rope) < depth:
        raise BadInput(
            f"{source}: no_rope_layers has {len(has_rope)} entries; num_hidden_layers is {depth}",
            source=source,
            field="no_rope_layers",
        )
    window = None
    if family.read_flag(fields, "use_sliding_window", source):
        window = family.read_integer(fields, "sliding_window", source)
    types = family.read_layer_types(fields, source, depth)
    if types is None:
        types = ["full_attention" if rope else "sliding_attention" for rope in has_rope[:depth]]
    return tuple(
        LayerKind(window if kind == "sliding_attention" else None, config.rope if rope else None)
        for kind, rope in zip(types, has_rope[:depth], strict=True)
    )


def write(config: DecoderConfig) -> dict[str, Any]:
    """Return the fields of config.json that SmolLM3 has of its own."""
    windows = [kind.window for kind in config.layer_kinds]
    window = next((window for window in windows if window is not None), None)
    return {
        "attention_bias": config.qkv_bias,
        "mlp_bias": config.mlp_bias,
        "no_rope_layers": [int(kind.rope is not None) for kind in config.layer_kinds],
        "use_sliding_window": window is not None,
        "sliding_window": window,
        "layer_types": ["sliding_attention" if w else "full_attention" for w in windows],
        **family.write_rope(config.rope),
    }


FAMILY = family.Family("smollm3", "SmolLM3ForCausalLM", read, write)
