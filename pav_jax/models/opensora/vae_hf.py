"""Open-Sora VAE 1.2 checkpoints: the published folder OpenSora-VAE-v1.2, both ways.

The published config.json names its two autoencoders by class, without sizes
(`{"type": "VideoAutoencoderKL"}` with the repository it starts from,
`{"type": "VAE_Temporal_SD"}`): they are those of the SDXL autoencoder and of `VAE_Temporal_SD`. For
other sizes `vae_2d` may have a `config` with diffusers' AutoencoderKL fields, and `vae_temporal`
the type `VAE_Temporal` together with its fields.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from pav_jax.errors import BadInput
from pav_jax.models import fields
from pav_jax.models.opensora.vae import OpenSoraVAE, OpenSoraVAEConfig
from pav_jax.models.opensora.vae_spatial import AutoencoderKLConfig
from pav_jax.models.opensora.vae_temporal import TemporalVAEConfig
from pav_jax.models.weights import Weight, conv, linear, norm
from pav_jax.typed_fields import check_object, read_fields

STEM = "model"
MODEL_TYPE = "VideoAutoencoderPipeline"
SPATIAL = "VideoAutoencoderKL"
TEMPORAL = "VAE_Temporal"
TEMPORAL_SD = "VAE_Temporal_SD"
# what the published 2-D autoencoder was initialized from; sizes as SDXL's
PUBLISHED_SPATIAL = "PixArt-alpha/pixart_sigma_sdxlvae_T5_diffusers"


def config_from_hf(raw: Mapping[str, Any], source: str = "config.json") -> OpenSoraVAEConfig:
    """Read a config.json of the published form.

    Raises:
      BadInput: another class, an unsupported autoencoder inside it, or inconsistent sizes.
    """
    fields.check_class(raw, "model_type", MODEL_TYPE, source, "; is this the vae folder?")
    spatial = check_object(raw.get("vae_2d") or {"type": SPATIAL}, source, "vae_2d")
    temporal = check_object(
        raw.get("vae_temporal") or {"type": TEMPORAL_SD}, source, "vae_temporal"
    )
    _check_parts(spatial, temporal, source)
    # the default of VAE_Temporal differs from that of VAE_Temporal_SD
    sizes: dict[str, Any] = {}
    if temporal["type"] == TEMPORAL:
        sizes["temporal_downsample"] = (True, True, False)
    clip_fields = {n: raw[n] for n in ("micro_frame_size", "shift", "scale") if n in raw}
    clip_fields |= {
        "vae_2d": spatial.get("config") or {},
        "vae_temporal": sizes | dict(temporal),
        "micro_batch_size": spatial.get("micro_batch_size"),
    }
    config = read_fields(
        OpenSoraVAEConfig,
        clip_fields,
        source,
        names={"spatial": "vae_2d", "temporal": "vae_temporal"},
    )
    if config.spatial.latent_channels != config.temporal.in_out_channels:
        raise BadInput(
            f"{source}: the 2-D autoencoder has {config.spatial.latent_channels} channels, the"
            f" temporal one takes {config.temporal.in_out_channels}; make them equal",
            source=source,
            field="vae_temporal.in_out_channels",
        )
    if {len(config.shift), len(config.scale)} != {config.latent_channels}:
        raise BadInput(
            f"{source}: shift and scale must have one number for each of {config.latent_channels}"
            " channels",
            source=source,
            field="shift",
        )
    return config


def _check_parts(spatial: Mapping[str, Any], temporal: Mapping[str, Any], source: str) -> None:
    problem = None
    if spatial.get("type") != SPATIAL:
        field = "vae_2d.type"
        problem = f"is {spatial.get('type')!r}; only {SPATIAL!r} is supported"
    elif temporal.get("type") not in (TEMPORAL, TEMPORAL_SD):
        field = "vae_temporal.type"
        problem = f"is {temporal.get('type')!r}; supported are {TEMPORAL_SD!r} and {TEMPORAL!r}"
    elif temporal.get("activation_fn", "swish") != "swish":
        field = "vae_temporal.activation_fn"
        problem = f"is {temporal['activation_fn']!r}; only 'swish' is supported"
    if problem is not None:
        raise BadInput(f"{source}: {field} {problem}", source=source, field=field)


def config_to_hf(config: OpenSoraVAEConfig) -> dict[str, Any]:
    """Return a config.json of the published form."""
    spatial: dict[str, Any] = {"type": SPATIAL, "micro_batch_size": config.micro_batch_size}
    if config.spatial == AutoencoderKLConfig():
        spatial |= {"from_pretrained": PUBLISHED_SPATIAL, "subfolder": "vae"}
    else:
        spatial["config"] = _json_fields(config.spatial)
    if config.temporal == TemporalVAEConfig():
        temporal = {"type": TEMPORAL_SD, "from_pretrained": None}
    else:
        temporal = {"type": TEMPORAL, **_json_fields(config.temporal)}
    return {
        "architectures": [MODEL_TYPE],
        "model_type": MODEL_TYPE,
        "torch_dtype": "float32",
        "vae_2d": spatial,
        "vae_temporal": temporal,
        "micro_frame_size": config.micro_frame_size,
        "shift": list(config.shift),
        "scale": list(config.scale),
        "cal_loss": False,
        "freeze_vae_2d": False,
        "from_pretrained": None,
    }


def _json_fields(sizes: AutoencoderKLConfig | TemporalVAEConfig) -> dict[str, Any]:
    values = dataclasses.asdict(sizes)
    return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}


def weights(config: OpenSoraVAEConfig) -> list[Weight]:
    """Return the weight table; the convolutions are small and replicated on every device."""
    buffers = [
        Weight(name, f"latent_{name}", axes=(None,) * 5, keep_float32=True)
        for name in ("scale", "shift")
    ]
    return [*buffers, *_spatial(config.spatial), *_temporal(config.temporal)]


def param_shapes(config: OpenSoraVAEConfig) -> dict:
    """Return the parameter tree as ShapeDtypeStructs, without computing anything."""
    side = config.spatial_ratio
    video = jax.ShapeDtypeStruct((1, 1, side, side, config.spatial.in_channels), jnp.float32)
    return jax.eval_shape(OpenSoraVAE(config).init, jax.random.key(0), video)["params"]


def _spatial(config: AutoencoderKLConfig) -> list[Weight]:
    module = "spatial_vae.module"
    rows = [*_spatial_coder(config, "encoder", "down"), *_spatial_coder(config, "decoder", "up")]
    for name in ("quant_conv", "post_quant_conv"):
        rows += conv(f"{module}.{name}", f"spatial/{name}", "conv2d")
    return rows


def _spatial_coder(config: AutoencoderKLConfig, part: str, direction: str) -> list[Weight]:
    hf = f"spatial_vae.module.{part}"
    path = f"spatial/{part}"
    widths = config.block_out_channels
    layers = config.layers_per_block
    if direction == "up":
        widths = widths[::-1]
        layers += 1
    rows = conv(f"{hf}.conv_in", f"{path}/conv_in", "conv2d")
    for i, width in enumerate(widths):
        block = f"{hf}.{direction}_blocks.{i}"
        for j in range(layers):
            shortcut = j == 0 and widths[max(i - 1, 0)] != width
            rows += _resnet(f"{block}.resnets.{j}", f"{path}/blocks_{i}_resnets_{j}", shortcut)
        if i < len(widths) - 1:
            sampler = f"{block}.{direction}samplers.0.conv"
            rows += conv(sampler, f"{path}/blocks_{i}_sampler", "conv2d")
    for i in (0, 1):
        rows += _resnet(f"{hf}.mid_block.resnets.{i}", f"{path}/mid_resnets_{i}", False)
    attention = f"{hf}.mid_block.attentions.0"
    rows += norm(f"{attention}.group_norm", f"{path}/mid_attention/group_norm")
    for name in ("to_q", "to_k", "to_v"):
        rows += linear(f"{attention}.{name}", f"{path}/mid_attention/{name}", (None, None))
    rows += linear(f"{attention}.to_out.0", f"{path}/mid_attention/to_out", (None, None))
    rows += norm(f"{hf}.conv_norm_out", f"{path}/norm_out")
    return rows + conv(f"{hf}.conv_out", f"{path}/conv_out", "conv2d")


def _resnet(hf: str, path: str, shortcut: bool) -> list[Weight]:
    rows = []
    for i in (1, 2):
        rows += norm(f"{hf}.norm{i}", f"{path}/norm{i}")
        rows += conv(f"{hf}.conv{i}", f"{path}/conv{i}", "conv2d")
    if shortcut:
        rows += conv(f"{hf}.conv_shortcut", f"{path}/conv_shortcut", "conv2d")
    return rows


def _temporal(config: TemporalVAEConfig) -> list[Weight]:
    rows = [*_temporal_coder(config, "encoder"), *_temporal_coder(config, "decoder")]
    for name in ("quant_conv", "post_quant_conv"):
        rows += conv(f"temporal_vae.{name}.conv", f"temporal/{name}")
    return rows


def _temporal_coder(config: TemporalVAEConfig, part: str) -> list[Weight]:
    hf = f"temporal_vae.{part}"
    path = f"temporal/{part}"
    widths = config.widths
    if part == "encoder":
        widths_in = (widths[0], *widths[:-1])
        rows = [_kernel(f"{hf}.conv_in", f"{path}/conv_in")]
        last_conv = f"{hf}.conv2.conv"
    else:
        widths_in = (*widths[1:], widths[-1])
        rows = conv(f"{hf}.conv1.conv", f"{path}/conv_in")
        last_conv = f"{hf}.conv_out.conv"
    rows += _residuals(config, f"{hf}.res_blocks", f"{path}/middle", False)
    for i, width in enumerate(widths):
        block = f"{hf}.block_res_blocks.{i}"
        rows += _residuals(config, block, f"{path}/blocks_{i}", widths_in[i] != width)
        if i < len(widths) - 1 and config.temporal_downsample[i]:
            rows += conv(f"{hf}.conv_blocks.{i}.conv", f"{path}/sampler_{i}")
    rows += norm(f"{hf}.norm1", f"{path}/norm_out")
    return rows + conv(last_conv, f"{path}/conv_out")


def _residuals(config: TemporalVAEConfig, hf: str, path: str, changes_width: bool) -> list[Weight]:
    rows = []
    for j in range(config.num_res_blocks):
        for i in (1, 2):
            rows += norm(f"{hf}.{j}.norm{i}", f"{path}_{j}/norm{i}")
            rows.append(_kernel(f"{hf}.{j}.conv{i}", f"{path}_{j}/conv{i}"))
        if j == 0 and changes_width:
            rows.append(_kernel(f"{hf}.{j}.conv3", f"{path}_{j}/conv3"))
    return rows


def _kernel(hf: str, path: str) -> Weight:
    """Return the row of a 3-D convolution without a bias."""
    return Weight(f"{hf}.conv.weight", f"{path}/kernel", "conv3d", (None,) * 5)
