"""Llama 2 and 3, SmolLM2, TinyLlama: transformers' `LlamaForCausalLM`."""

from collections.abc import Mapping
from typing import Any

from pav_jax.models.decoder.config import DecoderConfig
from pav_jax.models.decoder.families import family


def read(fields: Mapping[str, Any], source: str) -> DecoderConfig:
    """Read config.json. `attention_bias` is that of all four projections."""
    bias = family.read_flag(fields, "attention_bias", source)
    return family.read_config(
        fields,
        source,
        "llama",
        rope=family.read_rope(fields, source),
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=family.read_flag(fields, "mlp_bias", source),
    )


def write(config: DecoderConfig) -> dict[str, Any]:
    """Return the fields of config.json that Llama has of its own."""
    return {
        "attention_bias": config.qkv_bias,
        "mlp_bias": config.mlp_bias,
        **family.write_rope(config.rope),
    }


FAMILY = family.Family("llama", "LlamaForCausalLM", read, write)
