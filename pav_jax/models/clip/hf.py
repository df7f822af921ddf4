"""CLIP checkpoints: config.json and tensor names of transformers' `CLIPModel`, both directions."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from pav_jax.errors import BadInput
from pav_jax.models.clip.model import CLIP, CLIPConfig, TextConfig, VisionConfig
from pav_jax.models.layers import ACTIVATIONS
from pav_jax.models.weights import Weight

STEM = "model"

# Our field -> (transformers' field, transformers' default). A config.json leaves defaults out, so
# they matter; they are those of ViT-B/32.
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
    """Reads a transformers CLIP config with its nested `text_config` and `vision_config`.

    Raises:
      BadInput: another architecture, an unknown activation, or a size this model does not have.
    """
    if (kind := hf.get("model_type", "clip")) != "clip":
        raise BadInput(
            f"{source}: model_type is {kind!r}, a whole CLIP model ('clip') was expected"
        )
    sides = {}
    for side, fields in (("text", TEXT_FIELDS), ("vision", VISION_FIELDS)):
        raw = dict(hf.get(f"{side}_config") or {})
        # Configs written by old versions repeat the block as `*_config_dict`, and there that one
        # counts, defaults too.
        if (old := hf.get(f"{side}_config_dict")) is not None:
            raw |= dict(fields.values()) | old
        sides[side] = {ours: raw.get(theirs, default) for ours, (theirs, default) in fields.items()}
        if (activation := sides[side]["activation"]) not in ACTIVATIONS:
            raise BadInput(
                f"{source}: {side}_config.hidden_act is {activation!r}; known:"
                f" {', '.join(ACTIVATIONS)}"
            )
        if sides[side]["width"] % sides[side]["heads"]:
            raise BadInput(
                f"{source}: {side}_config.hidden_size is not a multiple of num_attention_heads"
            )
    for field in ("image_size", "patch_size"):
        sizes = sides["vision"][field]
        if isinstance(sizes, list | tuple):
            if len(set(sizes)) != 1:
                raise BadInput(
                    f"{source}: vision_config.{field} is {sizes}; only squares are supported"
                )
            sides["vision"][field] = sizes[0]
    return CLIPConfig(
        text=TextConfig(**sides["text"]),
        vision=VisionConfig(**sides["vision"]),
        projection_dim=hf.get("projection_dim", 512),
        logit_scale_init=hf.get("logit_scale_init_value", 2.6592),
    )


def config_to_hf(config: CLIPConfig) -> dict[str, Any]:
    """A config.json that `transformers.CLIPModel` loads."""
    sides = {
        f"{side}_config": (
            {theirs: getattr(part, ours) for ours, (theirs, _) in fields.items()}
            | {"model_type": f"clip_{side}_model", "projection_dim": config.projection_dim}
        )
        for side, part, fields in (
            ("text", config.text, TEXT_FIELDS),
            ("vision", config.vision, VISION_FIELDS),
        )
    }
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": config.projection_dim,
        "logit_scale_init_value": config.logit_scale_init,
        **sides,
        "torch_dtype": "float32",
    }


def weights(config: CLIPConfig) -> list[Weight]:
    return [
        Weight(
            "text_model.embeddings.token_embedding.weight",
            "text/token_embedding/embedding",
            axes=("vocab", "embed"),
        ),
        Weight(
            "text_model.embeddings.position_embedding.weight",
            "text/position_embedding",
            axes=(None, "embed"),
        ),
        Weight(
            "vision_model.embeddings.class_embedding", "vision/class_embedding", axes=("embed",)
        ),
        Weight(
            "vision_model.embeddings.patch_embedding.weight",
            "vision/patch_embedding",
            "conv2d",
            (None, None, None, "embed"),
        ),
        Weight(
            "vision_model.embeddings.position_embedding.weight",
            "vision/position_embedding",
            axes=(None, "embed"),
        ),
        *norm_rows("vision_model.pre_layrnorm", "vision/pre_norm"),  # transformers' own spelling
        *layer_rows("text_model", "text", config.text.layers),
        *layer_rows("vision_model", "vision", config.vision.layers),
        *norm_rows("text_model.final_layer_norm", "text/final_norm"),
        *norm_rows("vision_model.post_layernorm", "vision_norm"),
        Weight("text_projection.weight", "text_projection/kernel", "linear", ("embed", None)),
        Weight("visual_projection.weight", "visual_projection/kernel", "linear", ("embed", None)),
        Weight("logit_scale", "logit_scale"),
    ]


def norm_rows(hf: str, path: str, layers: int = 0) -> list[Weight]:
    """A LayerNorm, or one of each of `layers` layers."""
    axes = ("layers", "embed") if layers else ("embed",)
    return [
        Weight(f"{hf}.weight", f"{path}/scale", "same", axes, layers),
        Weight(f"{hf}.bias", f"{path}/bias", "same", axes, layers),
    ]


def layer_rows(hf: str, path: str, count: int) -> list[Weight]:
    """All layers of a tower whose body is `run_layers`."""
    hf, path = f"{hf}.encoder.layers.{{layer}}", f"{path}/layers"
    rows = [
        *norm_rows(f"{hf}.layer_norm1", f"{path}/norm1", count),
        *norm_rows(f"{hf}.layer_norm2", f"{path}/norm2", count),
    ]
    dense = {
        **{
            f"self_attn.{n}": (f"attention/{n}", "embed", "heads")
            for n in ("q_proj", "k_proj", "v_proj")
        },
        "self_attn.out_proj": ("attention/out_proj", "heads", "embed"),
        "mlp.fc1": ("fc1", "embed", "mlp"),
        "mlp.fc2": ("fc2", "mlp", "embed"),
    }
    for name, (ours, inner, outer) in dense.items():
        rows.append(
            Weight(
                f"{hf}.{name}.weight",
                f"{path}/{ours}/kernel",
                "linear",
                ("layers", inner, outer),
                count,
            )
        )
        rows.append(
            Weight(f"{hf}.{name}.bias", f"{path}/{ours}/bias", "same", ("layers", outer), count)
        )
    return rows


def param_shapes(config: CLIPConfig) -> dict:
    """The parameter tree as ShapeDtypeStructs, without computing anything."""
    side = config.vision.image_size
    pixels = jax.ShapeDtypeStruct((1, side, side, config.vision.channels), jnp.float32)
    return jax.eval_shape(
        CLIP(config).init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32), pixels
    )["params"]
