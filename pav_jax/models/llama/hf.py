"""Llama between our parameters and the Hugging Face layout: config.json fields and tensor names,
both ways."""

import dataclasses

import jax
import jax.numpy as jnp

from pav_jax.errors import BadInput
from pav_jax.models.layers import ACTIVATIONS
from pav_jax.models.llama.model import Llama, LlamaConfig, RopeScaling
from pav_jax.models.weights import Weight

STEM = "model"
REQUIRED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
)


def config_from_hf(fields: dict, source: str = "config.json") -> LlamaConfig:
    """Reads a config.json, of transformers 4 (`rope_theta`, `rope_scaling`) or 5
    (`rope_parameters`).

    Raises:
      BadInput: another architecture, a missing size, or an option that is not supported; names the
        field.
    """
    if (kind := fields.get("model_type", "llama")) != "llama":
        raise BadInput(
            f"{source}: model_type is {kind!r}; a Llama-architecture checkpoint is needed"
        )
    if missing := [name for name in REQUIRED if not isinstance(fields.get(name), int)]:
        raise BadInput(
            f"{source}: field {missing[0]!r} is missing or not a whole number; fetch the checkpoint"
            " again"
        )
    heads = fields["num_attention_heads"]
    kv_heads = fields.get("num_key_value_heads") or heads
    if heads % kv_heads:
        raise BadInput(
            f"{source}: num_key_value_heads={kv_heads} does not divide num_attention_heads={heads}"
        )
    if (act := fields.get("hidden_act", "silu")) not in ACTIVATIONS:
        raise BadInput(
            f"{source}: hidden_act is {act!r}; supported are {', '.join(sorted(ACTIVATIONS))}"
        )
    theta, scaling = _rope(fields, source)
    eos = fields.get("eos_token_id")
    plain = (
        "max_position_embeddings",
        "rms_norm_eps",
        "tie_word_embeddings",
        "attention_bias",
        "mlp_bias",
        "initializer_range",
        "bos_token_id",
        "pad_token_id",
    )
    return LlamaConfig(
        **{name: fields[name] for name in REQUIRED},
        **{name: fields[name] for name in plain if fields.get(name) is not None},
        num_key_value_heads=kv_heads,
        head_dim=fields.get("head_dim") or fields["hidden_size"] // heads,
        rope_theta=theta,
        rope_scaling=scaling,
        hidden_act=act,
        eos_token_id=tuple(eos) if isinstance(eos, list) else eos,
    )


def _rope(fields: dict, source: str) -> tuple[float, RopeScaling | None]:
    rope = fields.get("rope_parameters") or fields.get("rope_scaling") or {}
    theta = float(rope.get("rope_theta") or fields.get("rope_theta") or 10000.0)
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return theta, None
    if kind != "llama3":
        raise BadInput(f"{source}: rope_type is {kind!r}; supported are 'default' and 'llama3'")
    names = [f.name for f in dataclasses.fields(RopeScaling)]
    if missing := [name for name in names if name not in rope]:
        raise BadInput(
            f"{source}: the rope scaling lacks {missing[0]!r}; use the model's own config.json"
        )
    return theta, RopeScaling(**{name: rope[name] for name in names})


def config_to_hf(config: LlamaConfig) -> dict:
    """The config.json that transformers reads, in the older field names that version 5 also
    takes."""
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
        "torch_dtype": "float32",
        **fields,
    }


def weights(config: LlamaConfig) -> list[Weight]:
    """The table: HF name, our path, transform, logical axes."""
    n = config.num_hidden_layers

    def dense(hf: str, path: str, axes: tuple[str, str], bias: bool) -> list[Weight]:
        rows = [
            Weight(
                f"model.layers.{{layer}}.{hf}.weight",
                f"layers/{path}/kernel",
                "linear",
                (None, *axes),
                n,
            )
        ]
        if bias:
            rows.append(
                Weight(
                    f"model.layers.{{layer}}.{hf}.bias",
                    f"layers/{path}/bias",
                    "same",
                    (None, axes[1]),
                    n,
                )
            )
        return rows

    rows = [Weight("model.embed_tokens.weight", "embed", "same", ("vocab", "embed"))]
    for name, axes in (
        ("q_proj", ("embed", "heads")),
        ("k_proj", ("embed", "kv_heads")),
        ("v_proj", ("embed", "kv_heads")),
        ("o_proj", ("heads", "embed")),
    ):
        rows += dense(f"self_attn.{name}", f"attention/{name}", axes, config.attention_bias)
    for name, axes in (
        ("gate_proj", ("embed", "mlp")),
        ("up_proj", ("embed", "mlp")),
        ("down_proj", ("mlp", "embed")),
    ):
        rows += dense(f"mlp.{name}", f"mlp/{name}", axes, config.mlp_bias)
    for hf, path in (("input_layernorm", "input_norm"), ("post_attention_layernorm", "post_norm")):
        rows.append(
            Weight(
                f"model.layers.{{layer}}.{hf}.weight",
                f"layers/{path}/scale",
                "same",
                (None, None),
                n,
            )
        )
    rows.append(Weight("model.norm.weight", "norm/scale", "same", (None,)))
    if not config.tie_word_embeddings:
        rows.append(Weight("lm_head.weight", "lm_head", "linear", ("embed", "vocab")))
    return rows


def param_shapes(config: LlamaConfig) -> dict:
    """The parameter tree as ShapeDtypeStructs, without computing anything."""
    ids = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    return jax.eval_shape(Llama(config).init, jax.random.key(0), ids)["params"]
