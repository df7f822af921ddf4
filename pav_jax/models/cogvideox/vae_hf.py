"""CogVideoX VAE: diffusers' config.json and tensor names <-> ours, both directions."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from pav_jax.errors import BadInput
from pav_jax.models import fields
from pav_jax.models.cogvideox.vae import ACTIVATIONS, CogVideoXVAE, CogVideoXVAEConfig
from pav_jax.models.weights import Weight

CLASS_NAME = "AutoencoderKLCogVideoX"
STEM = "diffusion_pytorch_model"


def config_from_hf(raw: Mapping[str, Any], source: str = "config.json") -> CogVideoXVAEConfig:
    """Reads config.json's fields; those we do not know are ignored.

    Raises:
      BadInput: the file belongs to another class, or asks for an activation or a block we do not
        have.
    """
    if (name := raw.get("_class_name", CLASS_NAME)) != CLASS_NAME:
        raise BadInput(
            f"{source}: _class_name is {name}, expected {CLASS_NAME}; is this the vae folder?"
        )
    config = CogVideoXVAEConfig(**fields.select_fields(CogVideoXVAEConfig, raw))
    for field, block in (
        ("down_block_types", "CogVideoXDownBlock3D"),
        ("up_block_types", "CogVideoXUpBlock3D"),
    ):
        blocks = raw.get(field, [block] * len(config.block_out_channels))
        if len(blocks) != len(config.block_out_channels) or set(blocks) != {block}:
            raise BadInput(f"{source}: {field} must be one {block} per entry of block_out_channels")
    if config.act_fn not in ACTIVATIONS:
        raise BadInput(f"{source}: act_fn={config.act_fn!r} is not one of {', '.join(ACTIVATIONS)}")
    return config


def config_to_hf(config: CogVideoXVAEConfig) -> dict[str, Any]:
    count = len(config.block_out_channels)
    raw = {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(config).items()}
    return {
        "_class_name": CLASS_NAME,
        **raw,
        "down_block_types": ["CogVideoXDownBlock3D"] * count,
        "up_block_types": ["CogVideoXUpBlock3D"] * count,
    }


def weights(config: CogVideoXVAEConfig) -> list[Weight]:
    """The table. Convolutions are small, so their logical axes stay unnamed: every device keeps all
    of them."""
    rows: list[Weight] = []

    def conv(hf, path, kind="conv3d"):
        rows.append(
            Weight(f"{hf}.weight", f"{path}/kernel", kind, (None,) * (5 if kind == "conv3d" else 4))
        )
        rows.append(Weight(f"{hf}.bias", f"{path}/bias", "same", (None,)))

    def group_norm(hf, path):
        rows.append(Weight(f"{hf}.weight", f"{path}/scale", "same", (None,)))
        rows.append(Weight(f"{hf}.bias", f"{path}/bias", "same", (None,)))

    def norm(hf, path, spatial):
        if not spatial:
            return group_norm(hf, path)
        group_norm(f"{hf}.norm_layer", f"{path}/norm_layer")
        conv(f"{hf}.conv_y.conv", f"{path}/conv_y")
        conv(f"{hf}.conv_b.conv", f"{path}/conv_b")

    def resnets(hf, path, count, width_in, width_out, spatial):
        for i in range(count):
            h, p = f"{hf}.resnets.{i}", f"{path}/resnets_{i}"
            for n in ("1", "2"):
                norm(f"{h}.norm{n}", f"{p}/norm{n}", spatial)
                conv(f"{h}.conv{n}.conv", f"{p}/conv{n}")
            if i == 0 and width_in != width_out:
                conv(f"{h}.conv_shortcut", f"{p}/conv_shortcut")

    for part, direction in (("encoder", "down"), ("decoder", "up")):
        down = direction == "down"
        widths = config.block_out_channels if down else config.block_out_channels[::-1]
        conv(f"{part}.conv_in.conv", f"{part}/conv_in")
        middle = widths[-1 if down else 0]
        resnets(f"{part}.mid_block", f"{part}/mid_block", 2, middle, middle, not down)
        layers = config.layers_per_block + (0 if down else 1)
        for i, width in enumerate(widths):
            h, p = f"{part}.{direction}_blocks.{i}", f"{part}/blocks_{i}"
            resnets(h, p, layers, widths[max(i - 1, 0)], width, not down)
            if i < len(widths) - 1:
                conv(f"{h}.{direction}samplers.0.conv", f"{p}/{direction}sampler", "conv2d")
        norm(f"{part}.norm_out", f"{part}/norm_out", not down)
        conv(f"{part}.conv_out.conv", f"{part}/conv_out")
    if config.use_quant_conv:
        conv("quant_conv", "quant_conv")
    if config.use_post_quant_conv:
        conv("post_quant_conv", "post_quant_conv")
    return rows


def param_shapes(config: CogVideoXVAEConfig) -> dict:
    """The parameter tree as ShapeDtypeStructs, without computing anything."""
    ratio = config.spatial_ratio
    video = jax.ShapeDtypeStruct((1, 1, ratio, ratio, config.in_channels), jnp.float32)
    return jax.eval_shape(CogVideoXVAE(config).init, jax.random.key(0), video)["params"]
