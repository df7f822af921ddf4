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
from pav_jax.models.llama.model import Llama, LlamaConfig
from pav_jax.models.weights import Weight
from pav_jax.typed_fields import Depth, check_object, read_fields

STEM = "model"  # file names start with it: model.safetensors, model-00001-of-00004.safetensors
# fields that config.json may leave out or set to null
OPTIONAL = (
    "max_position_embeddings",
    "rms_norm_eps",
    "tie_word_embeddings",
    "attention_bias",
    "mlp_bias",
    "initializer_range",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "hidden_act",
)


@dataclasses.dataclass(frozen=True)
class RequiredSizes:
    """The fields that every config.json has."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: Depth
    num_attention_heads: int


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
    sizes = read_fields(RequiredSizes, fields, source)
    heads = sizes.num_attention_heads
    values = {name: fields[name] for name in OPTIONAL if fields.get(name) is not None}
    values |= dataclasses.asdict(sizes) | _rope(fields, source)
    values["num_key_value_heads"] = fields.get("num_key_value_heads") or heads
    values["head_dim"] = fields.get("head_dim") or sizes.hidden_size // heads
    config = read_fields(LlamaConfig, values, source)
    _check_sizes(config, source)
    return config


def _check_sizes(config: LlamaConfig, source: str) -> None:
    """Check what fields say about each other."""
    heads = config.num_attention_heads
    kv_heads = config.num_key_value_heads
    field = None
    if heads % kv_heads:
        field = "num_key_value_heads"
        problem = f"is {kv_heads}; it must divide num_attention_heads={heads}"
    elif config.head_dim % 2:
        field = "head_dim"
        problem = f"is {config.head_dim}; rotary positions need an even one"
    elif config.hidden_act not in ACTIVATIONS:
        field = "hidden_act"
        problem = f"is {config.hidden_act!r}; supported are {', '.join(sorted(ACTIVATIONS))}"
    if field is not None:
        raise BadInput(f"{source}: {field} {problem}", source=source, field=field)


def _rope(fields: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return the rotary base and, for Llama 3.1's scaling, its parameters."""
    section = "rope_parameters" if fields.get("rope_parameters") else "rope_scaling"
    rope = check_object(fields.get(section) or {}, source, section)
    values = {"rope_theta": rope.get("rope_theta") or fields.get("rope_theta") or 10000.0}
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return values
    if kind != "llama3":
        raise BadInput(
            f"{source}: rope_type is {kind!r}; supported are 'default' and 'llama3'",
            source=source,
            field="rope_type",
        )
    return values | {"rope_scaling": rope}


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
