"""T5 encoder checkpoints: transformers' `T5EncoderModel` and `UMT5EncoderModel`, both ways."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from pav_jax.errors import BadInput
from pav_jax.models.layers import ACTIVATIONS
from pav_jax.models.t5.model import T5Config, T5Encoder
from pav_jax.models.weights import Weight
from pav_jax.typed_fields import read_fields, read_value

STEM = "model"
# our field -> transformers'; fields without an entry follow from others
FIELDS = {
    "vocab_size": "vocab_size",
    "width": "d_model",
    "head_size": "d_kv",
    "heads": "num_heads",
    "layers": "num_layers",
    "ff_width": "d_ff",
    "position_buckets": "relative_attention_num_buckets",
    "position_max_distance": "relative_attention_max_distance",
    "norm_epsilon": "layer_norm_epsilon",
    "pad_id": "pad_token_id",
    "eos_id": "eos_token_id",
}


def config_from_hf(hf: Mapping[str, Any], source: str = "config.json") -> T5Config:
    """Read a transformers T5 config.

    Raises:
      BadInput: another architecture, a missing size or an unsupported activation.
    """
    if hf.get("model_type", "t5") not in ("t5", "umt5"):
        raise BadInput(
            f"{source}: model_type is {hf['model_type']!r}; a T5 encoder ('t5' or 'umt5') is"
            " needed",
            source=source,
            field="model_type",
        )
    for name in ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads"):
        if name not in hf:
            raise BadInput(
                f"{source}: field {name!r} is missing; is this the config.json of a T5 encoder?",
                source=source,
                field=name,
            )
    kind = read_value(hf.get("feed_forward_proj", "relu"), str, source, "feed_forward_proj")
    # transformers also reads "gated-gelu" as the tanh approximation
    activation = "gelu_new" if kind == "gated-gelu" else kind.removeprefix("gated-")
    if activation not in ACTIVATIONS:
        raise BadInput(
            f"{source}: feed_forward_proj is {kind!r}; supported activations are"
            f" {', '.join(sorted(ACTIVATIONS))}",
            source=source,
            field="feed_forward_proj",
        )
    config = dataclasses.replace(
        read_fields(T5Config, hf, source, "", FIELDS),
        activation=activation,
        gated=kind.startswith("gated-"),
        layer_bias=hf.get("model_type") == "umt5",
    )
    # half of the buckets are for each direction, half of those for exact distances
    if config.position_max_distance <= config.position_buckets // 4:
        raise BadInput(
            f"{source}: relative_attention_max_distance is {config.position_max_distance}; it must"
            f" be above a quarter of relative_attention_num_buckets={config.position_buckets}",
            source=source,
            field="relative_attention_max_distance",
        )
    return config


def class_name(config: T5Config) -> str:
    """Return the name of transformers' class for this encoder."""
    return "UMT5EncoderModel" if config.layer_bias else "T5EncoderModel"


def config_to_hf(config: T5Config) -> dict[str, Any]:
    """Return the config.json that transformers reads."""
    if config.gated and config.activation == "gelu_new":
        kind = "gated-gelu"
    else:
        kind = ("gated-" if config.gated else "") + config.activation
    return {
        "architectures": [class_name(config)],
        "model_type": "umt5" if config.layer_bias else "t5",
        "vocab_size": config.vocab_size,
        "d_model": config.width,
        "d_kv": config.head_size,
        "d_ff": config.ff_width,
        "num_layers": config.layers,
        "num_decoder_layers": config.layers,
        "num_heads": config.heads,
        "relative_attention_num_buckets": config.position_buckets,
        "relative_attention_max_distance": config.position_max_distance,
        "layer_norm_epsilon": config.norm_epsilon,
        "feed_forward_proj": kind,
        "dropout_rate": 0.0,
        "pad_token_id": config.pad_id,
        "eos_token_id": config.eos_id,
        "is_encoder_decoder": True,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
    }


def weights(config: T5Config) -> list[Weight]:
    """Return the weight table."""
    attention = "encoder.block.{layer}.layer.0"
    ff = "encoder.block.{layer}.layer.1"

    def stacked(hf: str, path: str, *axes: str | None) -> Weight:
        transform = "linear" if path.endswith("kernel") else "same"
        return Weight(hf, f"layers/{path}", transform, ("layers", *axes), config.layers)

    if config.layer_bias:
        name = f"{attention}.SelfAttention.relative_attention_bias.weight"
        bias = stacked(name, "attention/position_bias", None, "heads")
    else:
        name = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        bias = Weight(name, "position_bias", axes=(None, "heads"))
    rows = [Weight("shared.weight", "embed/embedding", axes=("vocab", "embed")), bias]
    for name in ("q", "k", "v"):
        hf = f"{attention}.SelfAttention.{name}.weight"
        rows.append(stacked(hf, f"attention/{name}/kernel", "embed", "heads"))
    output = f"{attention}.SelfAttention.o.weight"
    rows.append(stacked(output, "attention/o/kernel", "heads", "embed"))
    rows.append(stacked(f"{attention}.layer_norm.weight", "attention_norm/scale", "embed"))
    for name in ("wi_0", "wi_1") if config.gated else ("wi",):
        hf = f"{ff}.DenseReluDense.{name}.weight"
        rows.append(stacked(hf, f"ff/{name}/kernel", "embed", "mlp"))
    rows.append(stacked(f"{ff}.DenseReluDense.wo.weight", "ff/wo/kernel", "mlp", "embed"))
    rows.append(stacked(f"{ff}.layer_norm.weight", "ff_norm/scale", "embed"))
    rows.append(Weight("encoder.final_layer_norm.weight", "final_norm/scale", axes=("embed",)))
    return rows


@functools.lru_cache(maxsize=8)
def param_shapes(config: T5Config) -> dict:
    """Return the parameter tree as ShapeDtypeStructs, without computing anything."""
    return jax.eval_shape(T5Encoder(config).init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))[
        "params"
    ]
