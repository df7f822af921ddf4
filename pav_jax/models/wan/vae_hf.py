"""Wan 2.1 VAE: diffusers' config.json and tensor names <-> ours, both directions."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from pav_jax.errors import BadInput
from pav_jax.models import fields
from pav_jax.models.wan.vae import WanVAE, WanVAEConfig, coder_widths
from pav_jax.models.weights import Weight

CLASS_NAME = "AutoencoderKLWan"
STEM = "diffusion_pytorch_model"
# fields of diffusers' configuration that this model has in one value only; the others are of Wan
# 2.2
FIXED = {"is_residual": False, "patch_size": None, "attn_scales": []}


def config_from_hf(raw: Mapping[str, Any], source: str = "config.json") -> WanVAEConfig:
    """Reads config.json's fields; those we do not know are ignored.

    Raises:
      BadInput: the file belongs to another class, asks for what Wan 2.1's VAE does not have, or
        contradicts itself.
    """
    if (name := raw.get("_class_name", CLASS_NAME)) != CLASS_NAME:
        raise BadInput(
            f"{source}: _class_name is {name}, expected {CLASS_NAME}; is this the vae folder?"
        )
    fields.check_fixed(raw, FIXED, source, " (Wan 2.1)")
    config = WanVAEConfig(**fields.select_fields(WanVAEConfig, raw))
    for name, count in (
        ("temperal_downsample", len(config.dim_mult) - 1),
        ("latents_mean", config.z_dim),
        ("latents_std", config.z_dim),
    ):
        if len(getattr(config, name)) != count:
            raise BadInput(
                f"{source}: {name} has {len(getattr(config, name))} entries; {count} were expected"
            )
    if config.temporal_ratio > 4:
        raise BadInput(
            f"{source}: temperal_downsample is {list(config.temperal_downsample)}; at most two may"
            " be true"
        )
    return config


def config_to_hf(config: WanVAEConfig) -> dict[str, Any]:
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
    """The table. Convolutions are small, so their logical axes stay unnamed: every device keeps all
    of them."""
    rows: list[Weight] = []

    def conv(hf, path, kind="conv3d"):
        rows.append(
            Weight(f"{hf}.weight", f"{path}/kernel", kind, (None,) * (5 if kind == "conv3d" else 4))
        )
        rows.append(Weight(f"{hf}.bias", f"{path}/bias", "same", (None,)))

    def norm(hf, path, rank=3):
        rows.append(Weight(f"{hf}.gamma", f"{path}/scale", "same", (None,) * (1 + rank)))

    def resnet(hf, path, width_in, width_out):
        for n in ("1", "2"):
            norm(f"{hf}.norm{n}", f"{path}/norm{n}")
            conv(f"{hf}.conv{n}", f"{path}/conv{n}")
        if width_in != width_out:
            conv(f"{hf}.conv_shortcut", f"{path}/conv_shortcut")

    def resample(hf, path, time):
        conv(f"{hf}.resample.1", f"{path}/conv", "conv2d")
        if time:
            conv(f"{hf}.time_conv", f"{path}/time_conv")

    for part, direction in (("encoder", "down"), ("decoder", "up")):
        down, widths = direction == "down", coder_widths(config, direction)
        conv(f"{part}.conv_in", f"{part}/conv_in")
        for i in range(2):
            resnet(f"{part}.mid_block.resnets.{i}", f"{part}/mid_resnets_{i}", 0, 0)
        attention = f"{part}.mid_block.attentions.0"
        norm(f"{attention}.norm", f"{part}/mid_attention/norm", 2)
        for name in ("to_qkv", "proj"):
            conv(f"{attention}.{name}", f"{part}/mid_attention/{name}", "conv2d")
        flat = 0  # the encoder's blocks are one list of layers
        times = config.temperal_downsample if down else config.temperal_downsample[::-1]
        for i, width in enumerate(widths[1:] if down else widths):
            before = widths[i] if down else widths[0] if i == 0 else widths[i - 1] // 2
            for j in range(config.num_res_blocks + (not down)):
                hf = f"encoder.down_blocks.{flat}" if down else f"decoder.up_blocks.{i}.resnets.{j}"
                resnet(hf, f"{part}/blocks_{i}_resnets_{j}", before if j == 0 else width, width)
                flat += 1
            if i < len(config.dim_mult) - 1:
                hf = (
                    f"encoder.down_blocks.{flat}" if down else f"decoder.up_blocks.{i}.upsamplers.0"
                )
                resample(hf, f"{part}/blocks_{i}_resample", times[i])
                flat += 1
        norm(f"{part}.norm_out", f"{part}/norm_out")
        conv(f"{part}.conv_out", f"{part}/conv_out")
    conv("quant_conv", "quant_conv")
    conv("post_quant_conv", "post_quant_conv")
    return rows


@functools.lru_cache(maxsize=8)
def param_shapes(config: WanVAEConfig) -> dict:
    """Return the parameter tree as ShapeDtypeStructs, without computing anything."""
    ratio = config.spatial_ratio
    video = jax.ShapeDtypeStruct((1, 1, ratio, ratio, config.in_channels), jnp.float32)
    return jax.eval_shape(WanVAE(config).init, jax.random.key(0), video)["params"]
