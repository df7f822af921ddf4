"""CogVideoX transformer checkpoints: diffusers' `CogVideoXTransformer3DModel`, both ways.

A checkpoint's `patch_embed.pos_embedding` is a fixed table and is ignored, except in models with
learned positions, where it is a parameter.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from pav_jax.errors import BadInput
from pav_jax.models import fields
from pav_jax.models.cogvideox.transformer import CogVideoXConfig, CogVideoXTransformer
from pav_jax.models.weights import Weight, linear, norm
from pav_jax.typed_fields import read_fields

STEM = "diffusion_pytorch_model"
CLASS_NAME = "CogVideoXTransformer3DModel"
# fields of which only one value is supported
FIXED = {"activation_fn": "gelu-approximate", "timestep_activation_fn": "silu"}


def config_from_hf(hf: Mapping[str, Any], source: str = "config.json") -> CogVideoXConfig:
    """Read a diffusers transformer config; missing fields take diffusers' defaults.

    Raises:
      BadInput: another class, or an unsupported option.
    """
    fields.check_class(hf, "_class_name", CLASS_NAME, source)
    fields.check_fixed(hf, FIXED, source)
    config = read_fields(CogVideoXConfig, fields.fill_out_channels(hf), source)
    if config.attention_head_dim % 16 and config.use_rotary_positional_embeddings:
        raise BadInput(
            f"{source}: attention_head_dim is {config.attention_head_dim}; rotary positions need a"
            " multiple of 16",
            source=source,
            field="attention_head_dim",
        )
    if config.width % 16 and not config.use_rotary_positional_embeddings:
        raise BadInput(
            f"{source}: the width (heads x head size) is {config.width}; sinusoidal positions need"
            " a multiple of 16",
            source=source,
            field="num_attention_heads",
        )
    return config


def config_to_hf(config: CogVideoXConfig) -> dict[str, Any]:
    """Return the config.json that diffusers reads."""
    return {
        "_class_name": CLASS_NAME,
        "_diffusers_version": "0.35.0",
        **FIXED,
        "dropout": 0.0,
        **dataclasses.asdict(config),
    }


def weights(config: CogVideoXConfig) -> list[Weight]:
    """Return the weight table."""
    return [*_embeddings(config), *_output(config), *_layers(config)]


@functools.lru_cache(maxsize=8)
def param_shapes(config: CogVideoXConfig) -> dict:
    """Return the parameter tree as ShapeDtypeStructs, without computing anything."""
    patch = (1, config.patch_size_t or 1, config.patch_size, config.patch_size, config.in_channels)
    arguments = [
        jax.ShapeDtypeStruct(shape, jnp.float32)
        for shape in (patch, (1, 1, config.text_embed_dim), (1,))
    ]
    return jax.eval_shape(CogVideoXTransformer(config).init, jax.random.key(0), *arguments)[
        "params"
    ]


def _embeddings(config: CogVideoXConfig) -> list[Weight]:
    if config.patch_size_t is None:
        transform = "conv2d"
        axes = (None, None, None, "embed")
    else:
        transform = "linear"
        axes = (None, "embed")
    rows = [Weight("patch_embed.proj.weight", "patch_embed/kernel", transform, axes)]
    if config.patch_bias or config.patch_size_t is not None:
        rows.append(Weight("patch_embed.proj.bias", "patch_embed/bias", axes=("embed",)))
    if config.use_learned_positional_embeddings:
        path = "patch_embed/pos_embedding"
        rows.append(Weight("patch_embed.pos_embedding", path, axes=(None, None, "embed")))
    rows += linear("patch_embed.text_proj", "patch_embed/text_proj", (None, "embed"))
    names = ("time_embedding", "ofs_embedding") if config.ofs_embed_dim else ("time_embedding",)
    for name in names:
        for layer in ("linear_1", "linear_2"):
            rows += linear(f"{name}.{layer}", f"{name}/{layer}", (None, None))
    return rows


def _output(config: CogVideoXConfig) -> list[Weight]:
    affine = config.norm_elementwise_affine
    rows = norm("norm_final", "norm_final", "embed") if affine else []
    rows += linear("norm_out.linear", "out_modulation", (None, "embed"))
    rows += norm("norm_out.norm", "norm_out", "embed") if affine else []
    return rows + linear("proj_out", "proj_out", ("embed", None))


def _layers(config: CogVideoXConfig) -> list[Weight]:
    layers = config.num_layers
    block = "transformer_blocks.{layer}"
    rows = []
    for name in ("norm1", "norm2"):
        rows += linear(f"{block}.{name}.linear", f"layers/{name}/linear", (None, "embed"), layers)
        if config.norm_elementwise_affine:
            rows += norm(f"{block}.{name}.norm", f"layers/{name}/norm", "embed", layers)
    for letter in "qkv":
        path = f"layers/attention/{letter}_proj"
        kernel, bias = linear(f"{block}.attn1.to_{letter}", path, ("embed", "heads"), layers)
        rows += [kernel, bias] if config.attention_bias else [kernel]
    for letter in "qk":
        rows += norm(
            f"{block}.attn1.norm_{letter}", f"layers/attention/{letter}_norm", None, layers
        )
    rows += linear(f"{block}.attn1.to_out.0", "layers/attention/o_proj", ("heads", "embed"), layers)
    rows += linear(f"{block}.ff.net.0.proj", "layers/ff_up", ("embed", "mlp"), layers)
    rows += linear(f"{block}.ff.net.2", "layers/ff_down", ("mlp", "embed"), layers)
    return rows
