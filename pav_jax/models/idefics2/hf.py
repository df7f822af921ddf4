"""Idefics2 checkpoints with a head: `Idefics2ForSequenceClassification`, both ways.

Apart from the head, fields and tensor names are those of transformers' `Idefics2Model`.
"""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from pav_jax.errors import BadInput
from pav_jax.models import fields
from pav_jax.models.clip.hf import tower_weights
from pav_jax.models.decoder import hf as llama_hf
from pav_jax.models.idefics2.model import Idefics2, Idefics2Config
from pav_jax.models.idefics2.perceiver import PerceiverConfig
from pav_jax.models.idefics2.vision import VisionConfig
from pav_jax.models.weights import Weight, norm
from pav_jax.typed_fields import TokenId, check_object, read_fields

STEM = "model"
HEAD_BIAS = "score.bias"
DEFAULT_LABELS = 2  # transformers' default of num_labels

# Our field -> (transformers' field, transformers' default). config.json omits fields that have the
# default.
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
# transformers' defaults for Mistral
TEXT_DEFAULTS = {
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
# fields of a Llama config that a Mistral config does not have
NOT_MISTRAL = ("architectures", "torch_dtype", "attention_bias", "mlp_bias")


@dataclasses.dataclass(frozen=True)
class OtherFields:
    """The fields that neither the vision tower, nor the perceiver, nor the decoder has."""

    sliding_window: int | None
    image_token_id: TokenId
    labels: int


def config_from_hf(hf: Mapping[str, Any], source: str = "config.json") -> Idefics2Config:
    """Read a config.json with its `text_config`, `vision_config` and `perceiver_config`.

    Raises:
      BadInput: another architecture, an unknown activation, or an unsupported size.
    """
    if (kind := hf.get("model_type")) != "idefics2":
        raise BadInput(
            f"{source}: model_type is {kind!r}; an Idefics2 checkpoint ('idefics2') is needed",
            source=source,
            field="model_type",
        )
    text = TEXT_DEFAULTS | dict(check_object(hf.get("text_config") or {}, source, "text_config"))
    if (kind := text.get("model_type", "mistral")) != "mistral":
        raise BadInput(
            f"{source}: text_config.model_type is {kind!r}; only 'mistral' is supported",
            source=source,
            field="text_config.model_type",
        )
    vision = fields.read_section(
        VisionConfig, hf.get("vision_config") or {}, VISION_FIELDS, source, "vision_config"
    )
    # The code that trained the published checkpoints took the epsilon from the text model; their
    # config.json has none for the perceiver.
    names = PERCEIVER_FIELDS | {"norm_epsilon": ("rms_norm_eps", text["rms_norm_eps"])}
    perceiver = fields.read_section(
        PerceiverConfig, hf.get("perceiver_config") or {}, names, source, "perceiver_config"
    )
    if perceiver.heads % perceiver.kv_heads:
        raise BadInput(
            f"{source}: perceiver_config.num_key_value_heads={perceiver.kv_heads} does not"
            f" divide resampler_n_heads={perceiver.heads}",
            source=source,
            field="perceiver_config.num_key_value_heads",
        )
    labels = check_object(hf.get("id2label") or {}, source, "id2label")
    others = {
        "sliding_window": text["sliding_window"],
        "image_token_id": hf.get("image_token_id", 32001),
        "num_labels": hf.get("num_labels") or len(labels) or DEFAULT_LABELS,
    }
    others = read_fields(OtherFields, others, source, names={"labels": "num_labels"})
    return Idefics2Config(
        text=llama_hf.config_from_hf(text | {"model_type": "llama"}, f"{source}: text_config"),
        vision=vision,
        perceiver=perceiver,
        **dataclasses.asdict(others),
    )


def fit_config(
    config: Idefics2Config, tensors: Collection[str], source: str = ""
) -> Idefics2Config:
    """Set `score_bias` from the tensor names: no field of config.json says if the head has one."""
    del source
    return dataclasses.replace(config, score_bias=HEAD_BIAS in tensors)


def config_to_hf(config: Idefics2Config) -> dict[str, Any]:
    """Return a config.json that transformers' `Idefics2Config` reads."""
    text = {k: v for k, v in llama_hf.config_to_hf(config.text).items() if k not in NOT_MISTRAL}
    names = [f"LABEL_{i}" for i in range(config.labels)]
    vision = fields.write_section(config.vision, VISION_FIELDS)
    perceiver = fields.write_section(config.perceiver, PERCEIVER_FIELDS)
    return {
        "architectures": ["Idefics2ForSequenceClassification"],
        "model_type": "idefics2",
        "image_token_id": config.image_token_id,
        "pad_token_id": config.text.pad_token_id,
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
        "text_config": text | {"model_type": "mistral", "sliding_window": config.sliding_window},
        "vision_config": vision | {"model_type": "idefics2_vision"},
        # transformers replaces the epsilon unless the width equals the text model's
        "perceiver_config": perceiver
        | {"model_type": "idefics2_perceiver", "hidden_size": config.text.hidden_size},
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
    }


def weights(config: Idefics2Config) -> list[Weight]:
    """Return the weight table."""
    rows = [*_vision(config), *_connector(config)]
    for row in llama_hf.weights(config.text):
        if row.path == "lm_head":  # the scalar head replaces it
            continue
        hf = row.hf.replace("model.", "model.text_model.", 1)
        rows.append(dataclasses.replace(row, hf=hf, path=f"text/{row.path}"))
    rows.append(Weight("score.weight", "head/kernel", "linear", ("embed", None)))
    if config.score_bias:
        rows.append(Weight(HEAD_BIAS, "head/bias", axes=(None,)))
    return rows


def _vision(config: Idefics2Config) -> list[Weight]:
    tower = "model.vision_model"
    patch = f"{tower}.embeddings.patch_embedding"
    positions = f"{tower}.embeddings.position_embedding.weight"
    patch_axes = (None, None, None, "embed")
    return [
        Weight(f"{patch}.weight", "vision/patch_embedding", "conv2d", patch_axes),
        Weight(f"{patch}.bias", "vision/patch_bias", axes=("embed",)),
        Weight(positions, "vision/position_embedding", axes=(None, "embed")),
        *tower_weights(tower, "vision", config.vision.layers),
        *norm(f"{tower}.post_layernorm", "vision/final_norm", "embed"),
    ]


def _connector(config: Idefics2Config) -> list[Weight]:
    connector = "model.connector"
    resampler = f"{connector}.perceiver_resampler"
    layer = f"{resampler}.layers.{{layer}}"
    layers = config.perceiver.depth
    rows = [
        *_dense(f"{connector}.modality_projection", "connector/projection", MLP),
        Weight(f"{resampler}.latents", "connector/latents", axes=(None, "embed")),
        *_dense(f"{layer}.self_attn", "connector/layers/attention", ATTENTION, layers),
        *_dense(f"{layer}.mlp", "connector/layers/mlp", MLP, layers),
        Weight(f"{resampler}.norm.weight", "connector/norm/scale", axes=(None,)),
    ]
    for hf, ours in (
        ("input_latents_norm", "latents_norm"),
        ("input_context_norm", "patches_norm"),
        ("post_attention_layernorm", "post_norm"),
    ):
        path = f"connector/layers/{ours}/scale"
        rows.append(Weight(f"{layer}.{hf}.weight", path, "same", (None, None), layers))
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
    """Return dense layers without bias: layer name, the same on both sides -> logical axes."""
    stacked = (None,) if layers else ()
    return [
        Weight(
            f"{hf}.{name}.weight",
            f"{path}/{name}/kernel",
            "linear",
            (*stacked, *layer_axes),
            layers,
        )
        for name, layer_axes in axes.items()
    ]


def param_shapes(config: Idefics2Config) -> dict:
    """Return the parameter tree as ShapeDtypeStructs, without computing anything."""
    side = config.vision.patch_size
    ids = jnp.zeros((1, 2), jnp.int32)
    pixels = jax.ShapeDtypeStruct((1, 1, side, side, config.vision.channels), jnp.float32)
    return jax.eval_shape(Idefics2(config).init, jax.random.key(0), ids, ids > 0, pixels)["params"]
