"""Sliding windows as the Qwen families configure them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from pav_jax.models.decoder.config import DecoderConfig, LayerKind
from pav_jax.models.decoder.families import family

DEFAULT_WINDOW = 4096
DEFAULT_FULL_LAYERS = 28  # before the first layer with a window


def with_windows(config: DecoderConfig, fields: Mapping[str, Any], source: str) -> DecoderConfig:
    """Return the configuration with the windows of `use_sliding_window`, `sliding_window`, and
    either `layer_types` or `max_window_layers`."""
    if not family.read_flag(fields, "use_sliding_window", source):
        return config
    depth = config.num_hidden_layers
    window = family.read_integer(fields, "sliding_window", source, DEFAULT_WINDOW)
    types = family.read_layer_types(fields, source, depth)
    if types is None:
        first = fields.get("max_window_layers")
        first = DEFAULT_FULL_LAYERS if first is None else first
        first = family.read_value(first, family.LayerIndex, source, "max_window_layers")
        types = ["full_attention"] * min(first, depth) + ["sliding_attention"] * (depth - first)
    kinds = {
        "full_attention": LayerKind(None, config.rope),
        "sliding_attention": LayerKind(window, config.rope),
    }
    return dataclasses.replace(config, layer_kinds=tuple(kinds[name] for name in types))


def write_windows(config: DecoderConfig) -> dict[str, Any]:
    """Return the fields that `with_windows` reads."""
    kinds = config.layer_kinds
    windows = [kind.window for kind in kinds]
    window = next((window for window in windows if window is not None), None)
    is_sliding = [window is not None for window in windows] or [False] * config.num_hidden_layers
    return {
        "use_sliding_window": window is not None,
        "sliding_window": window,
        "max_window_layers": is_sliding.index(True) if any(is_sliding) else len(is_sliding),
        "layer_types": ["sliding_attention" if here else "full_attention" for here in is_sliding],
    }
