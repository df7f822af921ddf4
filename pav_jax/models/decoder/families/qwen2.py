"""Qwen2 and Qwen2.5: Llama with biases of q/k/v_proj, which no field says."""

from collections.abc import Mapping
from typing import Any

from pav_jax.models.decoder.config import DecoderConfig
from pav_jax.models.decoder.families import family, windows


def read(fields: Mapping[str, Any], source: str) -> DecoderConfig:
    """Read config.json."""
    rope = family.read_rope(fields, source)
    config = family.read_config(fields, source, "qwen2", rope=rope, qkv_bias=True)
    return windows.with_windows(config, fields, source)


def write(config: DecoderConfig) -> dict[str, Any]:
    """Return the fields of config.json that Qwen2 has of its own."""
    return {**windows.write_windows(config), **family.write_rope(config.rope)}


FAMILY = family.Family("qwen2", "Qwen2ForCausalLM", read, write)
