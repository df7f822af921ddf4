"""MPS checkpoints: the tensor names of the published MPS_overall_checkpoint, and a config.json.

The published file has no config.json. Ours is a CLIP's with a `cross_config` for the cross layers.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from pav_jax.errors import BadInput
from pav_jax.models.clip import hf as clip_hf
from pav_jax.models.mps.model import CrossConfig, MPSConfig, MPSModel
from pav_jax.models.weights import Weight, norm
from pav_jax.typed_fields import read_fields

STEM = "model"
KIND = "mps"
CLIP_PREFIX = "model."
CROSS_PREFIX = "cross_model.layers.{layer}."

# our field -> config.json's, named as in transformers; defaults: the published sizes
CROSS_FIELDS = {
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "head_dim": "head_dim",
    "ff_width": "intermediate_size",
    "norm_epsilon": "layer_norm_eps",
    "rope_theta": "rope_theta",
}


def config_from_hf(hf: Mapping[str, Any], source: str = "config.json") -> MPSConfig:
    """Read a config.json that `config_to_hf` makes.

    Raises:
      BadInput: another architecture or an unsupported size.
    """
    if (kind := hf.get("model_type")) != KIND:
        raise BadInput(
            f"{source}: model_type is {kind!r}; {KIND!r} is needed; `pav export --to=pav` makes"
            " such a folder from the published file",
            source=source,
            field="model_type",
        )
    clip = clip_hf.config_from_hf({**hf, "model_type": "clip"}, source)
    cross = read_fields(
        CrossConfig, hf.get("cross_config") or {}, source, "cross_config", CROSS_FIELDS
    )
    if cross.head_dim % 2:
        raise BadInput(
            f"{source}: cross_config.head_dim is {cross.head_dim}; rotary positions need an"
            " even one",
            source=source,
            field="cross_config.head_dim",
        )
    return MPSConfig(clip, cross)


def config_to_hf(config: MPSConfig) -> dict[str, Any]:
    """Return the config.json that `config_from_hf` reads."""
    cross = {theirs: getattr(config.cross, ours) for ours, theirs in CROSS_FIELDS.items()}
    return clip_hf.config_to_hf(config.clip) | {
        "architectures": ["MPS"],
        "model_type": KIND,
        "cross_config": cross,
    }


def weights(config: MPSConfig) -> list[Weight]:
    """Return the weight table: CLIP without its post norm, which MPS does not use; cross layers."""
    rows = [
        dataclasses.replace(row, hf=CLIP_PREFIX + row.hf, path=f"clip/{row.path}")
        for row in clip_hf.weights(config.clip)
        if not row.path.startswith("vision_norm/")
    ]
    layers = config.cross.layers
    dense = {
        "0.fn.to_q": ("reading/to_q", "embed", "heads"),
        "0.fn.to_kv": ("reading/to_kv", "embed", None),  # a single head cannot be sharded
        "0.fn.to_out": ("reading/to_out", "heads", "embed"),
        "0.fn.ff.0": ("reading/ff_in", "embed", "mlp"),
        "0.fn.ff.2": ("reading/ff_out", "mlp", "embed"),
        "1.fn.fused_attn_ff_proj": ("parallel/fused", "embed", None),
        "1.fn.attn_out": ("parallel/attn_out", "heads", "embed"),
        "1.fn.ff_out.1": ("parallel/ff_out", "mlp", "embed"),
    }
    for name, (path, *axes) in dense.items():
        hf = f"{CROSS_PREFIX}{name}.weight"
        rows.append(Weight(hf, f"cross/{path}/kernel", "linear", ("layers", *axes), layers))
    # the bias of the norms is a buffer of zeros in the checkpoint
    rows += norm(f"{CROSS_PREFIX}0.fn.norm", "cross/reading/norm", "embed", layers)
    return rows + norm(f"{CROSS_PREFIX}1.fn.norm", "cross/parallel/norm", "embed", layers)


def param_shapes(config: MPSConfig) -> dict:
    """Return the parameter tree as ShapeDtypeStructs, without computing anything."""
    side = config.clip.vision.image_size
    ids = jnp.zeros((1, 2), jnp.int32)
    pixels = jax.ShapeDtypeStruct((1, side, side, config.clip.vision.channels), jnp.float32)
    return jax.eval_shape(MPSModel(config).init, jax.random.key(0), ids, pixels, ids)["params"]
