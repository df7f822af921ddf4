"""Llama checkpoints: config.json fields and tensor names of transformers, both ways.

`weights` is the only table of a decoder's tensor names. Loading, export, sharding, LoRA adapters
and GGUF files all read it. To support a decoder with other tensors, add a field to `LlamaConfig`, a
layer to `model.py` and a row to `weights` that depends on the field, as `attention_bias` does.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from pav_jax.errors import BadInput
from pav_jax.models.layers import ACTIVATIONS
from pav_jax.models.llama.model import Llama, LlamaConfig, RopeScaling
from pav_jax.models.weights import Weight

STEM = "model"  # file names start with it: model.safetensors, model-00001-of-00004.safetensors
REQUIRED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
)
OPTIONAL = (
    "max_position_embeddings",
    "rms_norm_eps",
    "tie_word_embeddings",
    "attention_bias",
    "mlp_bias",
    "initializer_range",
    "bos_token_id",
    "pad_token_id",
)


def config_from_hf(fields: Mapping[str, Any], source: str = "config.json") -> LlamaConfig:
    """Read a config.json of transformers 4 (`rope_theta`, `rope_scaling`) or 5 (`rope_parameters`).

    Args:
      fields: the parsed file.
      source: the file's name in errors.

    Raises:
      BadInput: the architecture is not Llama, a size is missing, or an option is not supported.
    """
    if (kind := fields.get("model_type", "llama")) != "llama":
        raise BadInput(
            f"{source}: model_type is {kind!r}; a Llama-architecture checkpoint is needed",
            source=source,
            field="model_type",
        )
    if missing := [name for name in REQUIRED if not isinstance(fields.get(name), int)]:
        raise BadInput(
            f"{source}: field {missing[0]!r} is missing or not an integer; download the"
            " checkpoint again",
            source=source,
            field=missing[0],
        )
    heads = fields["num_attention_heads"]
    kv_heads = fields.get("num_key_value_heads") or heads
    if heads % kv_heads:
        raise BadInput(
            f"{source}: num_key_value_heads={kv_heads} does not divide num_attention_heads={heads};"
            " use the checkpoint's own config.json",
            source=source,
            field="num_key_value_heads",
        )
    if (act := fields.get("hidden_act", "silu")) not in ACTIVATIONS:
        raise BadInput(
            f"{source}: hidden_act is {act!r}; supported are {', '.join(sorted(ACTIVATIONS))}",
            source=source,
            field="hidden_act",
        )
    rope_theta, rope_scaling = _rope(fields, source)
    eos = fields.get("eos_token_id")
    return LlamaConfig(
        **{name: fields[name] for name in REQUIRED},
        **{name: fields[name] for name in OPTIONAL if fields.get(name) is not None},
        num_key_value_heads=kv_heads,
        head_dim=fields.get("head_dim") or fields["hidden_size"] // heads,
        rope_theta=rope_theta,
        rope_scaling=rope_scaling,
        hidden_act=act,
        eos_token_id=tuple(eos) if isinstance(eos, list) else eos,
    )


def _rope(fields: Mapping[str, Any], source: str) -> tuple[float, RopeScaling | None]:
    """Return the rotary base and, for Llama 3.1's scaling, its parameters."""
    rope = fields.get("rope_parameters") or fields.get("rope_scaling") or {}
    theta = float(rope.get("rope_theta") or fields.get("rope_theta") or 10000.0)
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return theta, None
    if kind != "llama3":
        raise BadInput(
            f"{source}: rope_type is {kind!r}; supported are 'default' and 'llama3'",
            source=source,
            field="rope_type",
        )
    names = [f.name for f in dataclasses.fields(RopeScaling)]
    if missing := [name for name in names if name not in rope]:
        raise BadInput(
            f"{source}: the rope scaling lacks {missing[0]!r}; use the checkpoint's own"
            " config.json",
            source=source,
            field=missing[0],
        )
    return theta, RopeScaling(**{name: rope[name] for name in names})


def config_to_hf(config: LlamaConfig) -> dict:
    """Return the fields of config.json under transformers 4's names, which version 5 also reads."""
    fields = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    scaling = fields.pop("rope_scaling")
    fields["rope_scaling"] = (
        {"rope_type": "llama3", **dataclasses.asdict(scaling)} if scaling else None
    )
    if isinstance(config.eos_token_id, tuple):
        fields["eos_token_id"] = list(config.eos_token_id)
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": "float32",  # checkpoints.folder.save overwrites it with the actual dtype
        **fields,
    }


def weights(config: LlamaConfig) -> list[Weight]:
    """Return the weight table: each weight's tensor name, our path, transform and logical axes."""
    layers = config.num_hidden_layers
    prefix = "model.layers.{layer}"

    def dense(hf: str, path: str, axes: tuple[str, str], bias: bool) -> list[Weight]:
        kernel_axes = (None, *axes)
        rows = [Weight(f"{hf}.weight", f"{path}/kernel", "linear", kernel_axes, layers)]
        if bias:
            rows.append(Weight(f"{hf}.bias", f"{path}/bias", "same", (None, axes[1]), layers))
        return rows

    rows = [Weight("model.embed_tokens.weight", "embed", "same", ("vocab", "embed"))]
    for name, axes in (
        ("q_proj", ("embed", "heads")),
        ("k_proj", ("embed", "kv_heads")),
        ("v_proj", ("embed", "kv_heads")),
        ("o_proj", ("heads", "embed")),
    ):
        path = f"layers/attention/{name}"
        rows += dense(f"{prefix}.self_attn.{name}", path, axes, config.attention_bias)
    for name, axes in (
        ("gate_proj", ("embed", "mlp")),
        ("up_proj", ("embed", "mlp")),
        ("down_proj", ("mlp", "embed")),
    ):
        rows += dense(f"{prefix}.mlp.{name}", f"layers/mlp/{name}", axes, config.mlp_bias)
    for hf, name in (("input_layernorm", "input_norm"), ("post_attention_layernorm", "post_norm")):
        scale = f"layers/{name}/scale"
        rows.append(Weight(f"{prefix}.{hf}.weight", scale, "same", (None, None), layers))
    rows.append(Weight("model.norm.weight", "norm/scale", "same", (None,)))
    if not config.tie_word_embeddings:
        rows.append(Weight("lm_head.weight", "lm_head", "linear", ("embed", "vocab")))
    return rows


def param_shapes(config: LlamaConfig) -> dict:
    """Return the parameter tree as ShapeDtypeStructs, without computing anything."""
    ids = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    return jax.eval_shape(Llama(config).init, jax.random.key(0), ids)["params"]
