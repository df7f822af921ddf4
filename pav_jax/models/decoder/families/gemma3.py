"""Gemma 3, and the text part of its vision-language models.

It differs from Llama in many places: RMSNorm factors are 1 + scale, each layer has four norms,
embeddings are multiplied by sqrt(hidden_size), queries and keys are normed, and five of six layers
have a window and rotary positions of their own.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

from pav_jax.models.decoder.config import DecoderConfig, LayerKind
from pav_jax.models.decoder.families import family, tensors
from pav_jax.models.decoder.rotary import Rope
from pav_jax.typed_fields import Positive, check_object

# transformers' defaults: config.json of the vision-language models has few sizes of the decoder
DEFAULTS = {
    "vocab_size": 262_208,
    "num_attention_heads": 8,
    "head_dim": 256,
    "num_key_value_heads": 4,
    "hidden_act": "gelu_pytorch_tanh",
    "max_position_embeddings": 131_072,
    "tie_word_embeddings": True,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
DEFAULT_WINDOW = 4096
DEFAULT_PATTERN = 6  # every sixth layer is without a window
GLOBAL_THETA = 1_000_000.0
LOCAL_THETA = 10_000.0
NORMS = {
    "input_norm": "input_layernorm",
    "attention_out_norm": "post_attention_layernorm",
    "post_norm": "pre_feedforward_layernorm",
    "mlp_out_norm": "post_feedforward_layernorm",
}


def read(fields: Mapping[str, Any], source: str) -> DecoderConfig:
    """Read config.json.

    Raises:
      BadInput: of `family.read_config`; or logits are capped or attention is not causal, as in
        other Gemma models.
    """
    for name in ("attn_logit_softcapping", "final_logit_softcapping"):
        family.refuse(fields, name, source, "caps of logits (Gemma 2) are not supported")
    family.refuse(
        fields, "use_bidirectional_attention", source, "only causal attention is supported"
    )
    bias = family.read_flag(fields, "attention_bias", source)
    activation = fields.get("hidden_activation") or fields.get("hidden_act")
    scalar = fields.get("query_pre_attn_scalar")
    scalar = family.read_value(
        256 if scalar is None else scalar, Positive, source, "query_pre_attn_scalar"
    )
    full, local = _read_ropes(fields, source)
    config = family.read_config(
        {**fields, "hidden_act": activation},
        source,
        "gemma3_text",
        DEFAULTS,
        qk_norm=True,
        norm_offset=1.0,
        post_norms=True,
        attention_scale=scalar**-0.5,
        qkv_bias=bias,
        out_bias=bias,
        rope=full,
    )
    window = family.read_integer(fields, "sliding_window", source, DEFAULT_WINDOW)
    kinds = {"full_attention": LayerKind(None, full), "sliding_attention": LayerKind(window, local)}
    types = _layer_types(config, fields, source)
    return dataclasses.replace(
        config,
        embedding_scale=math.sqrt(config.hidden_size),
        layer_kinds=tuple(kinds[name] for name in types),
    )


def _layer_types(config: DecoderConfig, fields: Mapping[str, Any], source: str) -> tuple[str, ...]:
    types = family.read_layer_types(fields, source, config.num_hidden_layers)
    if types is not None:
        return tuple(types)
    pattern = family.read_integer(fields, "sliding_window_pattern", source, DEFAULT_PATTERN)
    assert pattern is not None
    return tuple(
        "sliding_attention" if (i + 1) % pattern else "full_attention"
        for i in range(config.num_hidden_layers)
    )


def _read_ropes(fields: Mapping[str, Any], source: str) -> tuple[Rope, Rope]:
    """The rotary positions of layers without and with a window."""
    ropes = []
    nested = check_object(fields.get("rope_parameters") or {}, source, "rope_parameters")
    scaling = check_object(fields.get("rope_scaling") or {}, source, "rope_scaling")
    for kind, old_theta, default, old in (
        ("full_attention", "rope_theta", GLOBAL_THETA, scaling),
        ("sliding_attention", "rope_local_base_freq", LOCAL_THETA, {}),
    ):
        section = f"rope_parameters.{kind}"
        parameters = check_object(nested.get(kind) or {}, source, section)
        defaulted = {**fields, old_theta: fields.get(old_theta) or default}
        ropes.append(family.make_rope({**parameters, **old}, old_theta, source, section, defaulted))
    return ropes[0], ropes[1]


def write(config: DecoderConfig) -> dict[str, Any]:
    """Return the fields of config.json that Gemma 3 has of its own."""
    assert config.attention_scale is not None
    sliding = [kind for kind in config.layer_kinds if kind.window is not None]
    local = sliding[0].rope if sliding else None
    return {
        "hidden_activation": config.hidden_act,
        "query_pre_attn_scalar": _whole(config.attention_scale**-2),
        "attention_bias": config.qkv_bias,
        "sliding_window": sliding[0].window if sliding else DEFAULT_WINDOW,
        "layer_types": [
            "full_attention" if kind.window is None else "sliding_attention"
            for kind in config.layer_kinds
        ],
        "rope_local_base_freq": LOCAL_THETA if local is None else local.theta,
        **family.write_rope(config.rope),
    }


def _whole(value: float) -> float | int:
    """A number that is whole but for rounding, as an integer."""
    return round(value) if math.isclose(value, round(value), rel_tol=1e-9) else value


FAMILY = family.Family(
    "gemma3_text",
    "Gemma3ForCausalLM",
    read,
    write,
    functools.partial(tensors.standard_weights, norms=NORMS),
)
