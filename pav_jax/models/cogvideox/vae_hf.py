"""CogVideoX VAE checkpoints: diffusers' `AutoencoderKLCogVideoX`, both ways."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from pav_jax.errors import BadInput
from pav_jax.models import fields
from pav_jax.models.cogvideox.vae import ACTIVATIONS, CogVideoXVAE, CogVideoXVAEConfig
from pav_jax.models.weights import Weight, conv, norm
from pav_jax.typed_fields import read_fields

CLASS_NAME = "AutoencoderKLCogVideoX"
STEM = "diffusion_pytorch_model"


def config_from_hf(raw: Mapping[str, Any], source: str = "config.json") -> CogVideoXVAEConfig:
    """Read a diffusers VAE config; unknown fields are ignored.

    Raises:
      BadInput: another class, or an unsupported activation or block.
    """
    fields.check_class(raw, "_class_name", CLASS_NAME, source, "; is this the vae folder?")
    config = read_fields(CogVideoXVAEConfig, raw, source)
    for field, block in (
        ("down_block_types", "CogVideoXDownBlock3D"),
        ("up_block_types", "CogVideoXUpBlock3D"),
    ):
        needed = [block] * len(config.block_out_channels)
        blocks = raw.get(field, needed)
        if not isinstance(blocks, list | tuple) or list(blocks) != needed:
            raise BadInput(
                f"{source}: {field} must be one {block} per entry of block_out_channels",
                source=source,
                field=field,
            )
    if config.act_fn not in ACTIVATIONS:
        raise BadInput(
            f"{source}: act_fn={config.act_fn!r} is not one of {', '.join(ACTIVATIONS)}",
            source=source,
            field="act_fn",
        )
    if any(width % config.norm_num_groups for width in config.block_out_channels):
        raise BadInput(
            f"{source}: block_out_channels is {list(config.block_out_channels)}; each must be a"
            f" multiple of norm_num_groups={config.norm_num_groups}",
            source=source,
            field="block_out_channels",
        )
    for field in ("latents_mean", "latents_std"):
        values = getattr(config, field)
        if values is not None and len(values) != config.latent_channels:
            raise BadInput(
                f"{source}: {field} has {len(values)} entries; latent_channels is"
                f" {config.latent_channels}",
                source=source,
                field=field,
            )
    return config


def config_to_hf(config: CogVideoXVAEConfig) -> dict[str, Any]:
    """Return the config.json that diffusers reads."""
    count = len(config.block_out_channels)
    raw = {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(config).items()}
    return {
        "_class_name": CLASS_NAME,
        **raw,
        "down_block_types": ["CogVideoXDownBlock3D"] * count,
        "up_block_types": ["CogVideoXUpBlock3D"] * count,
    }


def weights(config: CogVideoXVAEConfig) -> list[Weight]:
    """Return the weight table; the convolutions are small and replicated on every device."""
    rows = [*_coder(config, "encoder", "down"), *_coder(config, "decoder", "up")]
    if config.use_quant_conv:
        rows += conv("quant_conv", "quant_conv")
    if config.use_post_quant_conv:
        rows += conv("post_quant_conv", "post_quant_conv")
    return rows


def _coder(config: CogVideoXVAEConfig, part: str, direction: str) -> list[Weight]:
    widths = config.block_out_channels
    layers = config.layers_per_block
    spatial = direction == "up"  # the decoder's norms read the latent
    if spatial:
        widths = widths[::-1]
        layers += 1
    middle = widths[0 if spatial else -1]
    rows = conv(f"{part}.conv_in.conv", f"{part}/conv_in")
    rows += _resnets(f"{part}.mid_block", f"{part}/mid_block", 2, middle, middle, spatial)
    for i, width in enumerate(widths):
        hf = f"{part}.{direction}_blocks.{i}"
        path = f"{part}/blocks_{i}"
        rows += _resnets(hf, path, layers, widths[max(i - 1, 0)], width, spatial)
        if i < len(widths) - 1:
            sampler = f"{direction}sampler"
            rows += conv(f"{hf}.{sampler}s.0.conv", f"{path}/{sampler}", "conv2d")
    rows += _norm(f"{part}.norm_out", f"{part}/norm_out", spatial)
    return rows + conv(f"{part}.conv_out.conv", f"{part}/conv_out")


def _resnets(
    hf: str, path: str, count: int, width_in: int, width_out: int, spatial: bool
) -> list[Weight]:
    rows = []
    for i in range(count):
        block_hf = f"{hf}.resnets.{i}"
        block_path = f"{path}/resnets_{i}"
        for n in ("1", "2"):
            rows += _norm(f"{block_hf}.norm{n}", f"{block_path}/norm{n}", spatial)
            rows += conv(f"{block_hf}.conv{n}.conv", f"{block_path}/conv{n}")
        if i == 0 and width_in != width_out:
            rows += conv(f"{block_hf}.conv_shortcut", f"{block_path}/conv_shortcut")
    return rows


def _norm(hf: str, path: str, spatial: bool) -> list[Weight]:
    """Return the rows of a group norm, or of a spatial norm."""
    if not spatial:
        return norm(hf, path)
    return [
        *norm(f"{hf}.norm_layer", f"{path}/norm_layer"),
        *conv(f"{hf}.conv_y.conv", f"{path}/conv_y"),
        *conv(f"{hf}.conv_b.conv", f"{path}/conv_b"),
    ]


def param_shapes(config: CogVideoXVAEConfig) -> dict:
    """Return the parameter tree as ShapeDtypeStructs, without computing anything."""
    ratio = config.spatial_ratio
    video = jax.ShapeDtypeStruct((1, 1, ratio, ratio, config.in_channels), jnp.float32)
    return jax.eval_shape(CogVideoXVAE(config).init, jax.random.key(0), video)["params"]
