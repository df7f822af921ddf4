"""Wan 2.1 transformer checkpoints: config.json and tensor names of diffusers'
`WanTransformer3DModel`."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from pav_jax.errors import BadInput
from pav_jax.models import fields
from pav_jax.models.wan.transformer import WanConfig, WanTransformer
from pav_jax.models.weights import Weight, linear

STEM = "diffusion_pytorch_model"
CLASS_NAME = "WanTransformer3DModel"
# fields of diffusers' configuration that this model has in one value only; the null ones are of
# image-to-video
FIXED = {
    "qk_norm": "rms_norm_across_heads",
    "image_dim": None,
    "added_kv_proj_dim": None,
    "pos_embed_seq_len": None,
}


def config_from_hf(hf: Mapping[str, Any], source: str = "config.json") -> WanConfig:
    """Reads a diffusers transformer config; fields it does not name take diffusers' defaults.

    Raises:
      BadInput: another class, or a choice this model does not have.
    """
    if hf.get("_class_name", CLASS_NAME) != CLASS_NAME:
        raise BadInput(
            f"{source}: _class_name is {hf['_class_name']!r}, {CLASS_NAME!r} was expected"
        )
    fields.check_fixed(hf, FIXED, source, " (text-to-video)")
    config = WanConfig(**fields.select_fields(WanConfig, hf))
    config = dataclasses.replace(config, out_channels=config.out_channels or config.in_channels)
    if len(config.patch_size) != 3:
        raise BadInput(
            f"{source}: patch_size is {list(config.patch_size)}; [frames, height, width] was"
            " expected"
        )
    if config.attention_head_dim % 2:
        raise BadInput(
            f"{source}: attention_head_dim is {config.attention_head_dim}; it must be even"
            " for rotary positions"
        )
    return config


def config_to_hf(config: WanConfig) -> dict[str, Any]:
    return {
        "_class_name": CLASS_NAME,
        "_diffusers_version": "0.35.0",
        **FIXED,
        **dataclasses.asdict(config) | {"patch_size": list(config.patch_size)},
    }


@functools.lru_cache(maxsize=8)
def param_shapes(config: WanConfig) -> dict:
    """Return the parameter tree as ShapeDtypeStructs, without computing anything."""
    arguments = (
        jnp.zeros((1, *config.patch_size, config.in_channels)),
        jnp.zeros((1, 1, config.text_dim)),
        jnp.zeros((1,)),
    )
    return jax.eval_shape(WanTransformer(config).init, jax.random.key(0), *arguments)["params"]


def weights(config: WanConfig) -> list[Weight]:
    """The table. What diffusers keeps in float32 whatever the type of the rest, is so here too."""
    n, block = config.num_layers, "blocks.{layer}"
    modulation = dict(transform="same", keep_float32=True)
    rows = [
        Weight(
            "patch_embedding.weight", "patch_kernel", "conv3d", (None, None, None, None, "embed")
        ),
        Weight("patch_embedding.bias", "patch_bias", axes=("embed",)),
        *linear("condition_embedder.text_embedder.linear_1", "text_linear_1", (None, "embed")),
        *linear("condition_embedder.text_embedder.linear_2", "text_linear_2", ("embed", None)),
        *linear(
            "condition_embedder.time_embedder.linear_1",
            "time_embedding/linear_1",
            (None, "embed"),
            float32=True,
        ),
        *linear(
            "condition_embedder.time_embedder.linear_2",
            "time_embedding/linear_2",
            ("embed", None),
            float32=True,
        ),
        *linear("condition_embedder.time_proj", "time_embedding/modulation", ("embed", "mlp")),
        Weight("scale_shift_table", "scale_shift_table", axes=(None, None, "embed"), **modulation),
        *linear("proj_out", "proj_out", ("embed", None)),
        Weight(
            f"{block}.scale_shift_table",
            "layers/scale_shift_table",
            axes=("layers", None, None, "embed"),
            layers=n,
            **modulation,
        ),
    ]
    for theirs, ours in (("attn1", "self_attention"), ("attn2", "cross_attention")):
        for name in "qkv":
            rows += linear(
                f"{block}.{theirs}.to_{name}", f"layers/{ours}/{name}_proj", ("embed", "heads"), n
            )
        rows += linear(f"{block}.{theirs}.to_out.0", f"layers/{ours}/o_proj", ("heads", "embed"), n)
        rows += [
            Weight(
                f"{block}.{theirs}.norm_{name}.weight",
                f"layers/{ours}/{name}_norm/scale",
                axes=("layers", "heads"),
                layers=n,
            )
            for name in "qk"
        ]
    if config.cross_attn_norm:
        rows += [
            Weight(
                f"{block}.norm2.{theirs}",
                f"layers/norm2/{ours}",
                axes=("layers", "embed"),
                layers=n,
                keep_float32=True,
            )
            for theirs, ours in (("weight", "scale"), ("bias", "bias"))
        ]
    rows += linear(f"{block}.ffn.net.0.proj", "layers/ff_up", ("embed", "mlp"), n)
    rows += linear(f"{block}.ffn.net.2", "layers/ff_down", ("mlp", "embed"), n)
    return rows
