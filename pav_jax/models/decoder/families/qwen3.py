"""Qwen3: Llama with a norm of each query and key head, whose size has a field of its own."""

from collections.abc import Mapping
from typing import Any

from pav_jax.models.decoder.config import DecoderConfig
from pav_jax.models.decoder.families import family, windows

DEFAULTS = {"head_dim": 128}


def read(fields: Mapping[str, Any], source: str) -> DecoderConfig:
    """Read config.json."""
    bias = family.read_flag(fields, "attention_bias", source)
    config = family.read_config(
        fields,
        source,
        "qwen3",
        DEFAULTS,
        rope=family.read_rope(fields, source),
        qk_norm=True,
        qkv_bias=bias,
        out_bias=bias,
    )
    return windows.with_windows(config, fields, source)


def write(config: DecoderConfig) -> dict[str, Any]:
    """Return the fields of config.json that Qwen3 has of its own."""
    return {
        "attention_bias": config.qkv_bias,
        **windows.write_windows(config),
        **family.write_rope(config.rope),
    }


FAMILY = family.Family("qwen3", "Qwen3ForCausalLM", read, write)
