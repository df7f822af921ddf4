"""MPS checkpoints: the tensor names of the published MPS_overall_checkpoint, and a config.json that
is a CLIP's with a `cross_config` beside the two towers."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from pav_jax.errors import BadInput
from pav_jax.models.clip import hf as clip_hf
from pav_jax.models.mps.model import CrossConfig, MPSConfig, MPSModel
from pav_jax.models.weights import Weight

STEM = "model"
KIND = "mps"
CLIP_PREFIX, CROSS_PREFIX = "model.", "cross_model.layers.{layer}."

# Our field -> config.json's, in the words of transformers' configs. The defaults are the published
# sizes.
CROSS_FIELDS = {
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "head_dim": "head_dim",
    "ff_width": "intermediate_size",
    "norm_epsilon": "layer_norm_eps",
    "rope_theta": "rope_theta",
}


def config_from_hf(hf: Mapping[str, Any], source: str = "config.json") -> MPSConfig:
    """Reads the config.json that `config_to_hf` makes.

    Raises:
      BadInput: another architecture, or a size this model does not have.
    """
    if (kind := hf.get("model_type")) != KIND:
        raise BadInput(
            f"{source}: model_type is {kind!r}, {KIND!r} was expected; `pav export --to=pav` makes"
            " such a folder from the published file"
        )
    clip = clip_hf.config_from_hf({**hf, "model_type": "clip"}, source)
    raw = hf.get("cross_config") or {}
    cross = CrossConfig(
        **{ours: raw[theirs] for ours, theirs in CROSS_FIELDS.items() if theirs in raw}
    )
    if cross.head_dim % 2:
        raise BadInput(
            f"{source}: cross_config.head_dim is {cross.head_dim}; rotary positions need an"
            " even one"
        )
    return MPSConfig(clip, cross)


def config_to_hf(config: MPSConfig) -> dict[str, Any]:
    cross = {theirs: getattr(config.cross, ours) for ours, theirs in CROSS_FIELDS.items()}
    return clip_hf.config_to_hf(config.clip) | {
        "architectures": ["MPS"],
        "model_type": KIND,
        "cross_config": cross,
    }


def weights(config: MPSConfig) -> list[Weight]:
    """CLIP's rows without the vision tower's post norm, which MPS does not use, then the cross
    layers'."""
    rows = [
        dataclasses.replace(row, hf=CLIP_PREFIX + row.hf, path=f"clip/{row.path}")
        for row in clip_hf.weights(config.clip)
        if not row.path.startswith("vision_norm/")
    ]
    dense = {
        "0.fn.to_q": ("reading/to_q", "embed", "heads"),
        "0.fn.to_kv": ("reading/to_kv", "embed", None),  # one head cannot be shared out
        "0.fn.to_out": ("reading/to_out", "heads", "embed"),
        "0.fn.ff.0": ("reading/ff_in", "embed", "mlp"),
        "0.fn.ff.2": ("reading/ff_out", "mlp", "embed"),
        "1.fn.fused_attn_ff_proj": ("parallel/fused", "embed", None),
        "1.fn.attn_out": ("parallel/attn_out", "heads", "embed"),
        "1.fn.ff_out.1": ("parallel/ff_out", "mlp", "embed"),
    }
    layers = config.cross.layers
    for name, (path, *axes) in dense.items():
        rows.append(
            Weight(
                f"{CROSS_PREFIX}{name}.weight",
                f"cross/{path}/kernel",
                "linear",
                ("layers", *axes),
                layers,
            )
        )
    for name, path in (("0.fn.norm", "reading/norm"), ("1.fn.norm", "parallel/norm")):
        for theirs, ours in (
            ("weight", "scale"),
            ("bias", "bias"),
        ):  # the bias is a buffer of zeros there
            rows.append(
                Weight(
                    f"{CROSS_PREFIX}{name}.{theirs}",
                    f"cross/{path}/{ours}",
                    "same",
                    ("layers", "embed"),
                    layers,
                )
            )
    return rows


def param_shapes(config: MPSConfig) -> dict:
    """Return the parameter tree as ShapeDtypeStructs, without computing anything."""
    side, ids = config.clip.vision.image_size, jnp.zeros((1, 2), jnp.int32)
    pixels = jax.ShapeDtypeStruct((1, side, side, config.clip.vision.channels), jnp.float32)
    return jax.eval_shape(MPSModel(config).init, jax.random.key(0), ids, pixels, ids)["params"]
