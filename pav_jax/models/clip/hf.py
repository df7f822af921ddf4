"""CLIP checkpoints: config.json and tensor names of transformers' `CLIPModel`, both ways."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from pav_jax.errors import BadInput
from pav_jax.models import fields
from pav_jax.models.clip.model import CLIP, CLIPConfig, TextConfig, VisionConfig
from pav_jax.models.weights import Weight, linear, norm
from pav_jax.typed_fields import check_object, read_fields

STEM = "model"
T = TypeVar("T")

# Our field -> (transformers' field, transformers' default). config.json omits fields that have the
# default, those of ViT-B/32.
TEXT_FIELDS = {
    "vocab_size": ("vocab_size", 49408),
    "width": ("hidden_size", 512),
    "ff_width": ("intermediate_size", 2048),
    "layers": ("num_hidden_layers", 12),
    "heads": ("num_attention_heads", 8),
    "positions": ("max_position_embeddings", 77),
    "activation": ("hidden_act", "quick_gelu"),
    "norm_epsilon": ("layer_norm_eps", 1e-5),
    "bos_id": ("bos_token_id", 49406),
    "eos_id": ("eos_token_id", 49407),
    "pad_id": ("pad_token_id", 1),
}
VISION_FIELDS = {
    "width": ("hidden_size", 768),
    "ff_width": ("intermediate_size", 3072),
    "layers": ("num_hidden_layers", 12),
    "heads": ("num_attention_heads", 12),
    "channels": ("num_channels", 3),
    "image_size": ("image_size", 224),
    "patch_size": ("patch_size", 32),
    "activation": ("hidden_act", "quick_gelu"),
    "norm_epsilon": ("layer_norm_eps", 1e-5),
}


def config_from_hf(hf: Mapping[str, Any], source: str = "config.json") -> CLIPConfig:
    """Read a transformers CLIP config with its nested `text_config` and `vision_config`.

    Raises:
      BadInput: another architecture, an unknown activation, or an unsupported size.
    """
    if (kind := hf.get("model_type", "clip")) != "clip":
        raise BadInput(
            f"{source}: model_type is {kind!r}; a complete CLIP model ('clip') is needed",
            source=source,
            field="model_type",
        )
    defaults = {"projection_dim": 512, "logit_scale_init_value": 2.6592}
    config = read_fields(
        CLIPConfig, defaults | dict(hf), source, "", {"logit_scale_init": "logit_scale_init_value"}
    )
    text = _read_tower(TextConfig, hf, "text", TEXT_FIELDS, source)
    vision = _read_tower(VisionConfig, hf, "vision", VISION_FIELDS, source)
    if vision.image_size < vision.patch_size:
        raise BadInput(
            f"{source}: vision_config.image_size is {vision.image_size}; it must be at least"
            f" patch_size={vision.patch_size}",
            source=source,
            field="vision_config.image_size",
        )
    return dataclasses.replace(config, text=text, vision=vision)


def _read_tower(
    kind: type[T],
    hf: Mapping[str, Any],
    tower: str,
    names: Mapping[str, tuple[str, Any]],
    source: str,
) -> T:
    raw = dict(check_object(hf.get(f"{tower}_config") or {}, source, f"{tower}_config"))
    # Old versions of transformers also wrote `*_config_dict`, which then takes precedence, its
    # defaults included.
    legacy = hf.get(f"{tower}_config_dict")
    if legacy is not None:
        legacy = dict(check_object(legacy, source, f"{tower}_config_dict"))
        raw |= dict(names.values()) | legacy
    return fields.read_section(kind, raw, names, source, f"{tower}_config")


def config_to_hf(config: CLIPConfig) -> dict[str, Any]:
    """Return a config.json that transformers' `CLIPModel` loads."""
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": config.projection_dim,
        "logit_scale_init_value": config.logit_scale_init,
        "text_config": _write_tower(config, "text", config.text, TEXT_FIELDS),
        "vision_config": _write_tower(config, "vision", config.vision, VISION_FIELDS),
        "torch_dtype": "float32",
    }


def _write_tower(
    config: CLIPConfig,
    tower: str,
    sizes: TextConfig | VisionConfig,
    names: Mapping[str, tuple[str, Any]],
) -> dict[str, Any]:
    return fields.write_section(sizes, names) | {
        "model_type": f"clip_{tower}_model",
        "projection_dim": config.projection_dim,
    }


def weights(config: CLIPConfig) -> list[Weight]:
    """Return the weight table."""
    text = "text_model.embeddings"
    vision = "vision_model.embeddings"
    table_axes = (None, "embed")
    patch_axes = (None, None, None, "embed")
    return [
        Weight(
            f"{text}.token_embedding.weight",
            "text/token_embedding/embedding",
            axes=("vocab", "embed"),
        ),
        Weight(f"{text}.position_embedding.weight", "text/position_embedding", axes=table_axes),
        Weight(f"{vision}.class_embedding", "vision/class_embedding", axes=("embed",)),
        Weight(f"{vision}.patch_embedding.weight", "vision/patch_embedding", "conv2d", patch_axes),
        Weight(f"{vision}.position_embedding.weight", "vision/position_embedding", axes=table_axes),
        *norm("vision_model.pre_layrnorm", "vision/pre_norm", "embed"),  # transformers' spelling
        *tower_weights("text_model", "text", config.text.layers),
        *tower_weights("vision_model", "vision", config.vision.layers),
        *norm("text_model.final_layer_norm", "text/final_norm", "embed"),
        *norm("vision_model.post_layernorm", "vision_norm", "embed"),
        Weight("text_projection.weight", "text_projection/kernel", "linear", ("embed", None)),
        Weight("visual_projection.weight", "visual_projection/kernel", "linear", ("embed", None)),
        Weight("logit_scale", "logit_scale"),
    ]


def tower_weights(hf: str, path: str, layers: int) -> list[Weight]:
    """Return the rows of all layers of a tower (`scan_tower`)."""
    hf = f"{hf}.encoder.layers.{{layer}}"
    path = f"{path}/layers"
    rows = [
        *norm(f"{hf}.layer_norm1", f"{path}/norm1", "embed", layers),
        *norm(f"{hf}.layer_norm2", f"{path}/norm2", "embed", layers),
    ]
    for name in ("q_proj", "k_proj", "v_proj"):
        attention = f"{path}/attention/{name}"
        rows += linear(f"{hf}.self_attn.{name}", attention, ("embed", "heads"), layers)
    output = f"{path}/attention/out_proj"
    rows += linear(f"{hf}.self_attn.out_proj", output, ("heads", "embed"), layers)
    rows += linear(f"{hf}.mlp.fc1", f"{path}/fc1", ("embed", "mlp"), layers)
    rows += linear(f"{hf}.mlp.fc2", f"{path}/fc2", ("mlp", "embed"), layers)
    return rows


def param_shapes(config: CLIPConfig) -> dict:
    """Return the parameter tree as ShapeDtypeStructs, without computing anything."""
    side = config.vision.image_size
    pixels = jax.ShapeDtypeStruct((1, side, side, config.vision.channels), jnp.float32)
    ids = jnp.zeros((1, 2), jnp.int32)
    return jax.eval_shape(CLIP(config).init, jax.random.key(0), ids, pixels)["params"]
