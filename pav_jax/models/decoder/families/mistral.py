"""Mistral: Llama, in version 0.1 with a sliding window in every layer."""

from collections.abc import Mapping
from typing import Any

from pav_jax.models.decoder.config import DecoderConfig, LayerKind
from pav_jax.models.decoder.families import family

DEFAULT_WINDOW = 4096  # of a file that leaves the field out; null is no window


def read(fields: Mapping[str, Any], source: str) -> DecoderConfig:
    """Read config.json."""
    family.refuse(fields, "layer_types", source, "Mistral has one kind of layer")
    rope = family.read_rope(fields, source)
    default = None if "sliding_window" in fields else DEFAULT_WINDOW
    window = family.read_integer(fields, "sliding_window", source, default)
    depth = family.read_fields(family.RequiredSizes, fields, source).num_hidden_layers
    kinds = () if window is None else (LayerKind(window, rope),) * depth
    defaults = {"num_key_value_heads": 8} if "num_key_value_heads" not in fields else {}
    return family.read_config(fields, source, "mistral", defaults, rope=rope, layer_kinds=kinds)


def write(config: DecoderConfig) -> dict[str, Any]:
    """Return the fields of config.json that Mistral has of its own."""
    return {"sliding_window": config.kind(0).window, **family.write_rope(config.rope)}


FAMILY = family.Family("mistral", "MistralForCausalLM", read, write)
