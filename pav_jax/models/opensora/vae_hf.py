"""VAE 1.2 checkpoints: config.json and tensor names of the published folder OpenSora-VAE-v1.2.

The published config.json names its two autoencoders by class and says no sizes
(`{"type": "VideoAutoencoderKL"}` with the repository it starts from,
`{"type": "VAE_Temporal_SD"}`): they are those of the SDXL autoencoder and of `VAE_Temporal_SD`. For
other sizes `vae_2d` may hold a `config` of diffusers' AutoencoderKL fields, and `vae_temporal` the
type `VAE_Temporal` with its fields beside it.
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
from pav_jax.models.weights import Weight

STEM = "model"
MODEL_TYPE = "VideoAutoencoderPipeline"
SPATIAL, TEMPORAL, TEMPORAL_SD = "VideoAutoencoderKL", "VAE_Temporal", "VAE_Temporal_SD"
PUBLISHED_SPATIAL = (  # where the published one started; sizes as SDXL's
    "PixArt-alpha/pixart_sigma_sdxlvae_T5_diffusers"
)


def config_from_hf(raw: Mapping[str, Any], source: str = "config.json") -> OpenSoraVAEConfig:
    """Raises BadInput for another class, or an autoencoder inside it that is not one of these."""
    if (name := raw.get("model_type", MODEL_TYPE)) != MODEL_TYPE:
        raise BadInput(
            f"{source}: model_type is {name!r}, {MODEL_TYPE!r} was expected; is this the vae"
            " folder?"
        )
    spatial = raw.get("vae_2d") or {"type": SPATIAL}
    temporal = raw.get("vae_temporal") or {"type": TEMPORAL_SD}
    if spatial.get("type") != SPATIAL:
        raise BadInput(
            f"{source}: vae_2d.type is {spatial.get('type')!r}; only {SPATIAL!r} is supported"
        )
    if temporal.get("type") not in (TEMPORAL, TEMPORAL_SD):
        raise BadInput(
            f"{source}: vae_temporal.type is {temporal.get('type')!r}; supported: {TEMPORAL_SD},"
            f" {TEMPORAL}"
        )
    if temporal.get("activation_fn", "swish") != "swish":
        raise BadInput(
            f"{source}: vae_temporal.activation_fn is {temporal['activation_fn']!r}; only 'swish'"
            " is known"
        )
    # that class's own default, where VAE_Temporal_SD has another
    sizes = {"temporal_downsample": (True, True, False)} if temporal["type"] == TEMPORAL else {}
    config = OpenSoraVAEConfig(
        spatial=AutoencoderKLConfig(
            **fields.select_fields(AutoencoderKLConfig, spatial.get("config", {}))
        ),
        temporal=TemporalVAEConfig(**sizes | fields.select_fields(TemporalVAEConfig, temporal)),
        micro_batch_size=spatial.get("micro_batch_size"),
        **fields.select_fields(
            OpenSoraVAEConfig,
            {n: raw[n] for n in ("micro_frame_size", "shift", "scale") if n in raw},
        ),
    )
    if config.spatial.latent_channels != config.temporal.in_out_channels:
        raise BadInput(
            f"{source}: the 2-D autoencoder has {config.spatial.latent_channels} channels, the"
            f" temporal one takes {config.temporal.in_out_channels}"
        )
    if {len(config.shift), len(config.scale)} != {config.latent_channels}:
        raise BadInput(
            f"{source}: shift and scale must hold one number for each of {config.latent_channels}"
            " channels"
        )
    return config


def config_to_hf(config: OpenSoraVAEConfig) -> dict[str, Any]:
    as_lists = lambda c: {
        n: list(v) if isinstance(v, tuple) else v for n, v in dataclasses.asdict(c).items()
    }  # noqa: E731
    spatial = {"type": SPATIAL, "micro_batch_size": config.micro_batch_size}
    if config.spatial == AutoencoderKLConfig():
        spatial |= {"from_pretrained": PUBLISHED_SPATIAL, "subfolder": "vae"}
    else:
        spatial["config"] = as_lists(config.spatial)
    published = config.temporal == TemporalVAEConfig()
    temporal = (
        {"type": TEMPORAL_SD, "from_pretrained": None}
        if published
        else {"type": TEMPORAL, **as_lists(config.temporal)}
    )
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


def weights(config: OpenSoraVAEConfig) -> list[Weight]:
    """The table. Convolutions are small, so their logical axes stay unnamed: every device keeps all
    of them."""
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


def _affine(hf: str, path: str) -> list[Weight]:
    return [
        Weight(f"{hf}.weight", f"{path}/scale", axes=(None,)),
        Weight(f"{hf}.bias", f"{path}/bias", axes=(None,)),
    ]


def _kernel(hf: str, path: str, kind: str, bias: bool = True) -> list[Weight]:
    rank = {"linear": 2, "conv2d": 4, "conv3d": 5}[kind]
    rows = [Weight(f"{hf}.weight", f"{path}/kernel", kind, (None,) * rank)]
    return rows + [Weight(f"{hf}.bias", f"{path}/bias", axes=(None,))] * bias


def _spatial(config: AutoencoderKLConfig) -> list[Weight]:
    theirs, ours, rows = "spatial_vae.module", "spatial", []

    def resnet(hf, path, shortcut):
        for i in (1, 2):
            rows.extend(_affine(f"{hf}.norm{i}", f"{path}/norm{i}"))
            rows.extend(_kernel(f"{hf}.conv{i}", f"{path}/conv{i}", "conv2d"))
        if shortcut:
            rows.extend(_kernel(f"{hf}.conv_shortcut", f"{path}/conv_shortcut", "conv2d"))

    for part, direction in (("encoder", "down"), ("decoder", "up")):
        hf, path = f"{theirs}.{part}", f"{ours}/{part}"
        widths = config.block_out_channels if part == "encoder" else config.block_out_channels[::-1]
        rows.extend(_kernel(f"{hf}.conv_in", f"{path}/conv_in", "conv2d"))
        for i, width in enumerate(widths):
            for j in range(config.layers_per_block + (part == "decoder")):
                resnet(
                    f"{hf}.{direction}_blocks.{i}.resnets.{j}",
                    f"{path}/blocks_{i}_resnets_{j}",
                    j == 0 and widths[max(i - 1, 0)] != width,
                )
            if i < len(widths) - 1:
                rows.extend(
                    _kernel(
                        f"{hf}.{direction}_blocks.{i}.{direction}samplers.0.conv",
                        f"{path}/blocks_{i}_sampler",
                        "conv2d",
                    )
                )
        for i in (0, 1):
            resnet(f"{hf}.mid_block.resnets.{i}", f"{path}/mid_resnets_{i}", False)
        attention, to = f"{hf}.mid_block.attentions.0", f"{path}/mid_attention"
        rows.extend(_affine(f"{attention}.group_norm", f"{to}/group_norm"))
        for theirs_name, name in (
            ("to_q", "to_q"),
            ("to_k", "to_k"),
            ("to_v", "to_v"),
            ("to_out.0", "to_out"),
        ):
            rows.extend(_kernel(f"{attention}.{theirs_name}", f"{to}/{name}", "linear"))
        rows.extend(_affine(f"{hf}.conv_norm_out", f"{path}/norm_out"))
        rows.extend(_kernel(f"{hf}.conv_out", f"{path}/conv_out", "conv2d"))
    for name in ("quant_conv", "post_quant_conv"):
        rows.extend(_kernel(f"{theirs}.{name}", f"{ours}/{name}", "conv2d"))
    return rows


def _temporal(config: TemporalVAEConfig) -> list[Weight]:
    theirs, ours, rows, widths = "temporal_vae", "temporal", [], config.widths

    def conv(hf, path, bias=True):
        rows.extend(_kernel(f"{hf}.conv", path, "conv3d", bias))

    def residuals(hf, path, width_in, width):
        for j in range(config.num_res_blocks):
            for i in (1, 2):
                rows.extend(_affine(f"{hf}.{j}.norm{i}", f"{path}_{j}_norm{i}"))
                conv(f"{hf}.{j}.conv{i}", f"{path}_{j}_conv{i}", bias=False)
            if j == 0 and width_in != width:
                conv(f"{hf}.{j}.conv3", f"{path}_{j}_conv3", bias=False)

    for part in ("encoder", "decoder"):
        hf, path, down = f"{theirs}.{part}", f"{ours}/{part}", part == "encoder"
        conv(f"{hf}.{'conv_in' if down else 'conv1'}", f"{path}/conv_in", bias=not down)
        residuals(f"{hf}.res_blocks", f"{path}/middle", widths[-1], widths[-1])
        for i, width in enumerate(widths):
            before = widths[max(i - 1, 0)] if down else widths[min(i + 1, len(widths) - 1)]
            residuals(f"{hf}.block_res_blocks.{i}", f"{path}/blocks_{i}", before, width)
            if i < len(widths) - 1 and config.temporal_downsample[i]:
                conv(f"{hf}.conv_blocks.{i}", f"{path}/sampler_{i}")
        rows.extend(_affine(f"{hf}.norm1", f"{path}/norm_out"))
        conv(f"{hf}.{'conv2' if down else 'conv_out'}", f"{path}/conv_out")
    for name in ("quant_conv", "post_quant_conv"):
        conv(f"{theirs}.{name}", f"{ours}/{name}")
    return rows
