"""Wan 2.1 transformer checkpoints: diffusers' `WanTransformer3DModel`, both ways."""

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
from pav_jax.typed_fields import read_fields

STEM = "diffusion_pytorch_model"
CLASS_NAME = "WanTransformer3DModel"
# fields of which only one value is supported; those that are None are for image-to-video
FIXED = {
    "qk_norm": "rms_norm_across_heads",
    "image_dim": None,
    "added_kv_proj_dim": None,
    "pos_embed_seq_len": None,
}


def config_from_hf(hf: Mapping[str, Any], source: str = "config.json") -> WanConfig:
    """Read a diffusers transformer config; missing fields take diffusers' defaults.

    Raises:
      BadInput: another class, or an unsupported option.
    """
    fields.check_class(hf, "_class_name", CLASS_NAME, source)
    fields.check_fixed(hf, FIXED, source, " (text-to-video)")
    config = read_fields(WanConfig, fields.fill_out_channels(hf), source)
    if config.attention_head_dim % 2:
        raise BadInput(
            f"{source}: attention_head_dim is {config.attention_head_dim}; rotary positions need an"
            " even one",
            source=source,
            field="attention_head_dim",
        )
    return config


def config_to_hf(config: WanConfig) -> dict[str, Any]:
    """Return the config.json that diffusers reads."""
    return {
        "_class_name": CLASS_NAME,
        "_diffusers_version": "0.35.0",
        **FIXED,
        **dataclasses.asdict(config) | {"patch_size": list(config.patch_size)},
    }


@functools.lru_cache(maxsize=8)
def param_shapes(config: WanConfig) -> dict:
    """Return the parameter tree as ShapeDtypeStructs, without computing anything."""
    patch = (1, *config.patch_size, config.in_channels)
    arguments = [
        jax.ShapeDtypeStruct(shape, jnp.float32) for shape in (patch, (1, 1, config.text_dim), (1,))
    ]
    return jax.eval_shape(WanTransformer(config).init, jax.random.key(0), *arguments)["params"]


def weights(config: WanConfig) -> list[Weight]:
    """Return the weight table; what diffusers always keeps in float32 is kept so here too."""
    embedder = "condition_embedder"
    patch_axes = (None, None, None, None, "embed")
    rows = [
        Weight("patch_embedding.weight", "patch_kernel", "conv3d", patch_axes),
        Weight("patch_embedding.bias", "patch_bias", axes=("embed",)),
        *linear(f"{embedder}.text_embedder.linear_1", "text_linear_1", (None, "embed")),
        *linear(f"{embedder}.text_embedder.linear_2", "text_linear_2", ("embed", None)),
    ]
    for name, axes in (("linear_1", (None, "embed")), ("linear_2", ("embed", None))):
        hf = f"{embedder}.time_embedder.{name}"
        rows += linear(hf, f"time_embedding/{name}", axes, keep_float32=True)
    rows += linear(f"{embedder}.time_proj", "time_embedding/modulation", ("embed", "mlp"))
    name = "scale_shift_table"
    rows.append(Weight(name, name, axes=(None, None, "embed"), keep_float32=True))
    rows += linear("proj_out", "proj_out", ("embed", None))
    return rows + _layers(config)


def _layers(config: WanConfig) -> list[Weight]:
    layers = config.num_layers
    block = "blocks.{layer}"

    def stacked(hf: str, path: str, *axes: str | None, keep_float32: bool = False) -> Weight:
        axes = ("layers", *axes)
        return Weight(f"{block}.{hf}", f"layers/{path}", "same", axes, layers, keep_float32)

    name = "scale_shift_table"
    rows = [stacked(name, name, None, None, "embed", keep_float32=True)]
    for theirs, ours in (("attn1", "self_attention"), ("attn2", "cross_attention")):
        for letter in "qkv":
            path = f"layers/{ours}/{letter}_proj"
            rows += linear(f"{block}.{theirs}.to_{letter}", path, ("embed", "heads"), layers)
        output = f"layers/{ours}/o_proj"
        rows += linear(f"{block}.{theirs}.to_out.0", output, ("heads", "embed"), layers)
        for letter in "qk":
            hf = f"{theirs}.norm_{letter}.weight"
            rows.append(stacked(hf, f"{ours}/{letter}_norm/scale", "heads"))
    if config.cross_attn_norm:
        rows.append(stacked("norm2.weight", "norm2/scale", "embed", keep_float32=True))
        rows.append(stacked("norm2.bias", "norm2/bias", "embed", keep_float32=True))
    rows += linear(f"{block}.ffn.net.0.proj", "layers/ff_up", ("embed", "mlp"), layers)
    return rows + linear(f"{block}.ffn.net.2", "layers/ff_down", ("mlp", "embed"), layers)
