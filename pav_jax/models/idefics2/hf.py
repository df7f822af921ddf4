"""Idefics2 checkpoints with a head: config.json and tensor names of
`Idefics2ForSequenceClassification`, both ways.

Below the head they are those of transformers' `Idefics2Model`.
"""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from pav_jax.errors import BadInput
from pav_jax.models.clip.hf import layer_rows, norm_rows
from pav_jax.models.idefics2.model import Idefics2, Idefics2Config
from pav_jax.models.idefics2.perceiver import PerceiverConfig
from pav_jax.models.idefics2.vision import VisionConfig
from pav_jax.models.layers import ACTIVATIONS
from pav_jax.models.llama import hf as llama_hf
from pav_jax.models.weights import Weight

STEM = "model"
HEAD_BIAS = "score.bias"

# Our field -> (transformers' field, transformers' default). A config.json leaves defaults out, so
# they matter.
VISION_FIELDS = {
    "width": ("hidden_size", 768),
    "ff_width": ("intermediate_size", 3072),
    "layers": ("num_hidden_layers", 12),
    "heads": ("num_attention_heads", 12),
    "channels": ("num_channels", 3),
    "image_size": ("image_size", 224),
    "patch_size": ("patch_size", 32),
    "activation": ("hidden_act", "gelu_pytorch_tanh"),
    "norm_epsilon": ("layer_norm_eps", 1e-6),
}
PERCEIVER_FIELDS = {
    "latents": ("resampler_n_latents", 64),
    "depth": ("resampler_depth", 3),
    "heads": ("resampler_n_heads", 16),
    "kv_heads": ("num_key_value_heads", 4),
    "head_dim": ("resampler_head_dim", 96),
    "activation": ("hidden_act", "silu"),
    "norm_epsilon": ("rms_norm_eps", None),
}
TEXT_DEFAULTS = {  # Mistral's
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-6,
    "sliding_window": 4096,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
NOT_MISTRAL = (
    "architectures",
    "torch_dtype",
    "attention_bias",
    "mlp_bias",
)  # of a Llama config, to leave out


def config_from_hf(fields: Mapping[str, Any], source: str = "config.json") -> Idefics2Config:
    """Reads a config.json with its `text_config`, `vision_config` and `perceiver_config`.

    Raises:
      BadInput: another architecture, an unknown activation, or a size this model does not have.
    """
    if (kind := fields.get("model_type")) != "idefics2":
        raise BadInput(
            f"{source}: model_type is {kind!r}; an Idefics2 checkpoint ('idefics2') is needed"
        )
    text = TEXT_DEFAULTS | dict(fields.get("text_config") or {})
    if (kind := text.get("model_type", "mistral")) != "mistral":
        raise BadInput(f"{source}: text_config.model_type is {kind!r}; only 'mistral' is supported")
    vision = _read(fields, "vision_config", VISION_FIELDS, source)
    if vision["width"] % vision["heads"]:
        raise BadInput(
            f"{source}: vision_config.hidden_size is not a multiple of num_attention_heads"
        )
    perceiver = _read(fields, "perceiver_config", PERCEIVER_FIELDS, source)
    if perceiver["heads"] % perceiver["kv_heads"]:
        raise BadInput(
            f"{source}: perceiver_config.num_key_value_heads does not divide resampler_n_heads"
        )
    # The code the published checkpoints were trained with took it from the text; a config.json of
    # that time has none.
    if perceiver["norm_epsilon"] is None:
        perceiver["norm_epsilon"] = text["rms_norm_eps"]
    return Idefics2Config(
        text=llama_hf.config_from_hf(text | {"model_type": "llama"}, f"{source}: text_config"),
        vision=VisionConfig(**vision),
        perceiver=PerceiverConfig(**perceiver),
        sliding_window=text["sliding_window"],
        image_token_id=fields.get("image_token_id", 32001),
        labels=fields.get("num_labels")
        or len(fields.get("id2label") or ())
        or 2,  # 2: transformers' default
    )


def _read(
    fields: Mapping[str, Any], block: str, names: Mapping[str, tuple[str, Any]], source: str
) -> dict[str, Any]:
    raw = fields.get(block) or {}
    values = {ours: raw.get(theirs, default) for ours, (theirs, default) in names.items()}
    if values["activation"] not in ACTIVATIONS:
        raise BadInput(
            f"{source}: {block}.hidden_act is {values['activation']!r}; known:"
            f" {', '.join(ACTIVATIONS)}"
        )
    for ours, value in values.items():
        if isinstance(value, list | tuple):  # a side may be written as [height, width]
            if len(set(value)) != 1:
                raise BadInput(
                    f"{source}: {block}.{names[ours][0]} is {list(value)}; only squares are"
                    " supported"
                )
            values[ours] = value[0]
    return values


def fit_config(config: Idefics2Config, tensors: Collection[str]) -> Idefics2Config:
    """The head has a bias where the checkpoint holds one: no field of config.json says so."""
    return dataclasses.replace(config, score_bias=HEAD_BIAS in tensors)


def config_to_hf(config: Idefics2Config) -> dict[str, Any]:
    """A config.json that transformers' `Idefics2Config` reads."""
    text = {k: v for k, v in llama_hf.config_to_hf(config.text).items() if k not in NOT_MISTRAL}
    names = [f"LABEL_{i}" for i in range(config.labels)]
    write = lambda part, fields: {
        theirs: getattr(part, ours) for ours, (theirs, _) in fields.items()
    }  # noqa: E731
    return {
        "architectures": ["Idefics2ForSequenceClassification"],
        "model_type": "idefics2",
        "image_token_id": config.image_token_id,
        "pad_token_id": config.text.pad_token_id,
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
        "text_config": text | {"model_type": "mistral", "sliding_window": config.sliding_window},
        "vision_config": write(config.vision, VISION_FIELDS) | {"model_type": "idefics2_vision"},
        # transformers replaces the epsilon where the width is not the text's
        "perceiver_config": (
            write(config.perceiver, PERCEIVER_FIELDS)
            | {
                "model_type": "idefics2_perceiver",
                "hidden_size": config.text.hidden_size,
            }
        ),
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
    }


def weights(config: Idefics2Config) -> list[Weight]:
    """The table: HF name, our path, transform, logical axes."""
    seen, joined = "model.vision_model", "model.connector"
    n = config.perceiver.depth
    resampler, layer = (
        f"{joined}.perceiver_resampler",
        f"{joined}.perceiver_resampler.layers.{{layer}}",
    )
    rows = [
        Weight(
            f"{seen}.embeddings.patch_embedding.weight",
            "vision/patch_embedding",
            "conv2d",
            (None, None, None, "embed"),
        ),
        Weight(f"{seen}.embeddings.patch_embedding.bias", "vision/patch_bias", axes=("embed",)),
        Weight(
            f"{seen}.embeddings.position_embedding.weight",
            "vision/position_embedding",
            axes=(None, "embed"),
        ),
        *layer_rows(seen, "vision", config.vision.layers),
        *norm_rows(f"{seen}.post_layernorm", "vision/final_norm"),
        *_dense(f"{joined}.modality_projection", "connector/projection", MLP),
        Weight(f"{resampler}.latents", "connector/latents", axes=(None, "embed")),
        *_dense(f"{layer}.self_attn", "connector/layers/attention", ATTENTION, n),
        *_dense(f"{layer}.mlp", "connector/layers/mlp", MLP, n),
        Weight(f"{resampler}.norm.weight", "connector/norm/scale", axes=(None,)),
    ]
    for hf, ours in (
        ("input_latents_norm", "latents_norm"),
        ("input_context_norm", "patches_norm"),
        ("post_attention_layernorm", "post_norm"),
    ):
        rows.append(
            Weight(
                f"{layer}.{hf}.weight", f"connector/layers/{ours}/scale", "same", (None, None), n
            )
        )
    for row in llama_hf.weights(config.text):
        if row.path != "lm_head":  # the head of numbers stands in its place
            rows.append(
                dataclasses.replace(
                    row,
                    hf=row.hf.replace("model.", "model.text_model.", 1),
                    path=f"text/{row.path}",
                )
            )
    rows.append(Weight("score.weight", "head/kernel", "linear", ("embed", None)))
    if config.score_bias:
        rows.append(Weight(HEAD_BIAS, "head/bias", axes=(None,)))
    return rows


MLP = {"gate_proj": ("embed", "mlp"), "up_proj": ("embed", "mlp"), "down_proj": ("mlp", "embed")}
ATTENTION = {
    "q_proj": ("embed", "heads"),
    "k_proj": ("embed", "kv_heads"),
    "v_proj": ("embed", "kv_heads"),
    "o_proj": ("heads", "embed"),
}


def _dense(
    hf: str, path: str, axes: Mapping[str, tuple[str, str]], layers: int = 0
) -> list[Weight]:
    """Dense layers without bias, by the names both sides use."""
    lead = (None,) if layers else ()
    return [
        Weight(f"{hf}.{name}.weight", f"{path}/{name}/kernel", "linear", (*lead, *both), layers)
        for name, both in axes.items()
    ]


def param_shapes(config: Idefics2Config) -> dict:
    """The parameter tree as ShapeDtypeStructs, without computing anything."""
    side, ids = config.vision.patch_size, jnp.zeros((1, 2), jnp.int32)
    pixels = jax.ShapeDtypeStruct((1, 1, side, side, config.vision.channels), jnp.float32)
    return jax.eval_shape(Idefics2(config).init, jax.random.key(0), ids, ids > 0, pixels)["params"]
