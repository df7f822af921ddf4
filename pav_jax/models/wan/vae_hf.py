"""Checkpoints of Wan's autoencoders: diffusers' `AutoencoderKLWan`, both ways."""

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
FIXED = {"attn_scales": []}  # of which only one value is supported
RGB = 3


def config_from_hf(raw: Mapping[str, Any], source: str = "config.json") -> WanVAEConfig:
    """Read a diffusers VAE config; unknown fields are ignored.

    Raises:
      BadInput: another class, an option that Wan's VAEs do not have, lists of wrong length, or
        sizes that contradict each other.
    """
    fields.check_class(raw, "_class_name", CLASS_NAME, source, "; is this the vae folder?")
    fields.check_fixed(raw, FIXED, source)
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
    _check_channels(config, source)
    # folders written before diffusers had these fields lack them
    ratios = {
        "scale_factor_spatial": config.spatial_ratio,
        "scale_factor_temporal": config.temporal_ratio,
    }
    present = {name: value for name, value in raw.items() if value is not None}
    fields.check_fixed(present, ratios, source, " for these stages and this patch_size")
    return config


def _check_channels(config: WanVAEConfig, source: str) -> None:
    for name in ("in_channels", "out_channels"):
        channels = RGB * config.patch**2
        if getattr(config, name) != channels:
            raise BadInput(
                f"{source}: {name} is {getattr(config, name)}; patches of {config.patch} x"
                f" {config.patch} RGB pixels have {channels}",
                source=source,
                field=name,
            )
    if not config.is_residual:
        return
    down = coder_widths(config, "down")
    up = coder_widths(config, "up")
    last = len(config.dim_mult) - 1
    times = (*(2 if time else 1 for time in config.temperal_downsample), 1)
    for i, time in enumerate(times):
        factor = time * (1 if i == last else 4)
        if down[i] * factor % down[i + 1]:
            raise _bad_shortcut("encoder", down[i] * factor, down[i + 1], source)
    # the decoder's last stage has no shortcut
    for i, time in enumerate(times[-2::-1]):
        if up[i] * time * 4 % up[max(i - 1, 0)]:
            raise _bad_shortcut("decoder", up[i] * time * 4, up[max(i - 1, 0)], source)


def _bad_shortcut(coder: str, channels: int, divisor: int, source: str) -> BadInput:
    return BadInput(
        f"{source}: dim_mult: a shortcut of the {coder} has {channels} channels, which {divisor} of"
        " the other side do not divide; use the config.json that belongs to the weights",
        source=source,
        field="dim_mult",
    )


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
    layer = 0  # without shortcuts the checkpoint's blocks are one list of layers
    for i, width in enumerate(widths[1:]):
        block = f"encoder.down_blocks.{i}"
        for j in range(config.num_res_blocks):
            hf = f"{block}.resnets.{j}" if config.is_residual else f"encoder.down_blocks.{layer}"
            width_in = widths[i] if j == 0 else width
            rows += _resnet(hf, f"encoder/blocks_{i}_resnets_{j}", width_in != width)
            layer += 1
        if i < len(config.dim_mult) - 1:
            hf = f"{block}.downsampler" if config.is_residual else f"encoder.down_blocks.{layer}"
            time = config.temperal_downsample[i]
            rows += _resample(hf, f"encoder/blocks_{i}_resample", time)
            layer += 1
    return rows + _output("encoder")


def _decoder(config: WanVAEConfig) -> list[Weight]:
    widths = coder_widths(config, "up")
    rows = [*conv("decoder.conv_in", "decoder/conv_in"), *_middle("decoder")]
    # upsampling halves the channels of the preceding block, but not beside a shortcut
    divisor = 1 if config.is_residual else 2
    upsampler = "upsampler" if config.is_residual else "upsamplers.0"
    for i, width in enumerate(widths):
        hf = f"decoder.up_blocks.{i}"
        for j in range(config.num_res_blocks + 1):
            changes_width = i > 0 and j == 0 and widths[i - 1] // divisor != width
            path = f"decoder/blocks_{i}_resnets_{j}"
            rows += _resnet(f"{hf}.resnets.{j}", path, changes_width)
        if i < len(config.dim_mult) - 1:
            time = config.temperal_downsample[::-1][i]
            rows += _resample(f"{hf}.{upsampler}", f"decoder/blocks_{i}_resample", time)
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
    video = jax.ShapeDtypeStruct((1, 1, ratio, ratio, RGB), jnp.float32)
    return jax.eval_shape(WanVAE(config).init, jax.random.key(0), video)["params"]
