"""Wan 2.1 VAE checkpoints: diffusers' `AutoencoderKLWan`, both ways."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from pav_jax.errors import BadInput
from pav_jax.models import fields
from pav_jax.models.wan.vae import WanVAE, WanVAEConfig, coder_widths
from pav_jax.models.weights import Weight, conv
from pav_jax.typed_fields import read_fields

CLASS_NAME = "AutoencoderKLWan"
STEM = "diffusion_pytorch_model"
# fields of which only one value is supported; others are for Wan 2.2
FIXED = {"is_residual": False, "patch_size": None, "attn_scales": []}


def config_from_hf(raw: Mapping[str, Any], source: str = "config.json") -> WanVAEConfig:
    """Read a diffusers VAE config; unknown fields are ignored.

    Raises:
      BadInput: another class, an option that Wan 2.1's VAE does not have, or lists of wrong length.
    """
    fields.check_class(raw, "_class_name", CLASS_NAME, source, "; is this the vae folder?")
    fields.check_fixed(raw, FIXED, source, " (Wan 2.1)")
    config = read_fields(WanVAEConfig, raw, source)
    for name, count in (
        ("temperal_downsample", len(config.dim_mult) - 1),
        ("latents_mean", config.z_dim),
        ("latents_std", config.z_dim),
    ):
        if len(getattr(config, name)) != count:
            raise BadInput(
                f"{source}: {name} has {len(getattr(config, name))} entries; {count} are needed",
                source=source,
                field=name,
            )
    if config.temporal_ratio > 4:
        raise BadInput(
            f"{source}: temperal_downsample is {list(config.temperal_downsample)}; at most two may"
            " be true",
            source=source,
            field="temperal_downsample",
        )
    return config


def config_to_hf(config: WanVAEConfig) -> dict[str, Any]:
    """Return the config.json that diffusers reads."""
    raw = {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(config).items()}
    return {
        "_class_name": CLASS_NAME,
        "_diffusers_version": "0.35.0",
        **FIXED,
        "dropout": 0.0,
        **raw,
        "scale_factor_temporal": config.temporal_ratio,
        "scale_factor_spatial": config.spatial_ratio,
    }


def weights(config: WanVAEConfig) -> list[Weight]:
    """Return the weight table; the convolutions are small and replicated on every device."""
    return [
        *_encoder(config),
        *_decoder(config),
        *conv("quant_conv", "quant_conv"),
        *conv("post_quant_conv", "post_quant_conv"),
    ]


def _encoder(config: WanVAEConfig) -> list[Weight]:
    widths = coder_widths(config, "down")
    rows = [*conv("encoder.conv_in", "encoder/conv_in"), *_middle("encoder")]
    layer = 0  # the checkpoint's blocks are one list of layers
    for i, width in enumerate(widths[1:]):
        for j in range(config.num_res_blocks):
            width_in = widths[i] if j == 0 else width
            hf = f"encoder.down_blocks.{layer}"
            rows += _resnet(hf, f"encoder/blocks_{i}_resnets_{j}", width_in != width)
            layer += 1
        if i < len(config.dim_mult) - 1:
            time = config.temperal_downsample[i]
            rows += _resample(f"encoder.down_blocks.{layer}", f"encoder/blocks_{i}_resample", time)
            layer += 1
    return rows + _output("encoder")


def _decoder(config: WanVAEConfig) -> list[Weight]:
    widths = coder_widths(config, "up")
    rows = [*conv("decoder.conv_in", "decoder/conv_in"), *_middle("decoder")]
    for i, width in enumerate(widths):
        hf = f"decoder.up_blocks.{i}"
        for j in range(config.num_res_blocks + 1):
            # upsampling halves the channels of the preceding block
            changes_width = i > 0 and j == 0 and widths[i - 1] // 2 != width
            path = f"decoder/blocks_{i}_resnets_{j}"
            rows += _resnet(f"{hf}.resnets.{j}", path, changes_width)
        if i < len(config.dim_mult) - 1:
            time = config.temperal_downsample[::-1][i]
            rows += _resample(f"{hf}.upsamplers.0", f"decoder/blocks_{i}_resample", time)
    return rows + _output("decoder")


def _middle(part: str) -> list[Weight]:
    rows = []
    for i in range(2):
        rows += _resnet(f"{part}.mid_block.resnets.{i}", f"{part}/mid_resnets_{i}", False)
    attention = f"{part}.mid_block.attentions.0"
    path = f"{part}/mid_attention"
    rows.append(_norm(f"{attention}.norm", f"{path}/norm", window_axes=2))
    rows += conv(f"{attention}.to_qkv", f"{path}/to_qkv", "conv2d")
    return rows + conv(f"{attention}.proj", f"{path}/proj", "conv2d")


def _output(part: str) -> list[Weight]:
    norm = _norm(f"{part}.norm_out", f"{part}/norm_out")
    return [norm, *conv(f"{part}.conv_out", f"{part}/conv_out")]


def _norm(hf: str, path: str, window_axes: int = 3) -> Weight:
    return Weight(f"{hf}.gamma", f"{path}/scale", "same", (None,) * (1 + window_axes))


def _resnet(hf: str, path: str, changes_width: bool) -> list[Weight]:
    rows = []
    for n in ("1", "2"):
        rows.append(_norm(f"{hf}.norm{n}", f"{path}/norm{n}"))
        rows += conv(f"{hf}.conv{n}", f"{path}/conv{n}")
    if changes_width:
        rows += conv(f"{hf}.conv_shortcut", f"{path}/conv_shortcut")
    return rows


def _resample(hf: str, path: str, time: bool) -> list[Weight]:
    rows = conv(f"{hf}.resample.1", f"{path}/conv", "conv2d")
    if time:
        rows += conv(f"{hf}.time_conv", f"{path}/time_conv")
    return rows


@functools.lru_cache(maxsize=8)
def param_shapes(config: WanVAEConfig) -> dict:
    """Return the parameter tree as ShapeDtypeStructs, without computing anything."""
    ratio = config.spatial_ratio
    video = jax.ShapeDtypeStruct((1, 1, ratio, ratio, config.in_channels), jnp.float32)
    return jax.eval_shape(WanVAE(config).init, jax.random.key(0), video)["params"]
