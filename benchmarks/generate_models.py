"""What benchmarks/generate.py measures: pipelines with random weights, and the FLOPs of their
components by formula.

Shapes: a latent is [T, H, W, C], without a batch axis. FLOPs are those of one row; a multiply-add
counts as two.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pav_jax.checkpoints.folder import read_config
from pav_jax.models.cogvideox.transformer import CogVideoXConfig, CogVideoXTransformer
from pav_jax.models.cogvideox.vae import CogVideoXVAE, CogVideoXVAEConfig
from pav_jax.models.t5 import T5Config, T5Encoder
from pav_jax.models.wan import vae_hf
from pav_jax.models.wan.transformer import WanConfig, WanTransformer
from pav_jax.models.wan.vae import WanVAE, WanVAEConfig
from pav_jax.preflight.program import PUBLISHED
from pav_jax.video import GenerationConfig, VideoModel, schedulers
from pav_jax.video.cogvideox import CogVideoX
from pav_jax.video.families import family_class
from pav_jax.video.family import Family
from pav_jax.video.wan import Wan

SIZE = dict(num_frames=49, height=256, width=256)  # 13 x 32 x 32 latents
PUBLISHED_NAMES = {
    "cogvideox": "CogVideoX-2b",
    "wan": "Wan2.1-T2V-1.3B-Diffusers",
    "wan22": "Wan2.2-TI2V-5B-Diffusers",
}
UNIPC = {
    "_class_name": "UniPCMultistepScheduler",
    "use_flow_sigmas": True,
    "prediction_type": "flow_prediction",
    "flow_shift": 3.0,
    "solver_order": 2,
}


# ------------------------------------------------------------------------------------------ folders


def cogvideox(tokenizer: Any) -> tuple[CogVideoX, GenerationConfig]:
    """A CogVideoX of width 512 with 8 layers, a text encoder of the same size, and a VAE of an
    eighth of the published width."""
    from pav_jax.mini.training.generator import SCHEDULER

    text = T5Config(
        vocab_size=len(tokenizer), width=512, head_size=64, heads=8, layers=8, ff_width=1024
    )
    denoiser = CogVideoXConfig(
        num_attention_heads=8,
        attention_head_dim=64,
        num_layers=8,
        text_embed_dim=512,
        sample_width=32,
        sample_height=32,
        use_rotary_positional_embeddings=True,
    )
    vae = CogVideoXVAEConfig(
        block_out_channels=(16, 32, 32, 64), norm_num_groups=8, sample_height=256, sample_width=256
    )
    family = CogVideoX(
        tokenizer,
        T5Encoder(text),
        CogVideoXTransformer(denoiser),
        CogVideoXVAE(vae),
        schedulers.load(SCHEDULER),
    )
    return family, GenerationConfig(**SIZE, guidance_scale=6.0)


def wan(tokenizer: Any) -> tuple[Wan, GenerationConfig]:
    """A Wan of width 512 with 8 layers, a text encoder of the same size, and a VAE of a sixth of
    the published width."""
    return wan_pipeline(tokenizer, WanVAEConfig(base_dim=16), UNIPC)


def wan22(tokenizer: Any) -> tuple[Wan, GenerationConfig]:
    """A Wan 2.2 TI2V of width 512 with 8 layers, a text encoder of the same size, and a residual
    VAE of an eighth of the published width."""
    published = read_config(vae_hf, PUBLISHED / PUBLISHED_NAMES["wan22"] / "vae")
    vae = dataclasses.replace(published, base_dim=20, decoder_base_dim=32)
    return wan_pipeline(tokenizer, vae, UNIPC | {"flow_shift": 5.0}, expand_timesteps=True)


def wan_pipeline(
    tokenizer: Any, vae: WanVAEConfig, scheduler: dict, **fields: Any
) -> tuple[Wan, GenerationConfig]:
    """Width 512, 8 layers, and a text encoder of the same size."""
    text = T5Config(
        vocab_size=len(tokenizer),
        width=512,
        head_size=64,
        heads=8,
        layers=8,
        ff_width=1024,
        layer_bias=True,
    )
    denoiser = WanConfig(
        num_attention_heads=4,
        attention_head_dim=128,
        text_dim=512,
        ffn_dim=2048,
        num_layers=8,
        in_channels=vae.z_dim,
        out_channels=vae.z_dim,
    )
    family = Wan(
        tokenizer,
        T5Encoder(text),
        WanTransformer(denoiser),
        WanVAE(vae),
        schedulers.load(scheduler),
        **fields,
    )
    return family, GenerationConfig(**SIZE, guidance_scale=5.0, fps=16)


def mini(tokenizer: Any) -> tuple[CogVideoX, GenerationConfig]:
    """The embedded generator's sizes."""
    from pav_jax.mini.training import generator, vae

    family = CogVideoX(
        tokenizer,
        T5Encoder(generator.t5_config()),
        CogVideoXTransformer(generator.DENOISER),
        CogVideoXVAE(vae.CONFIG),
        schedulers.load(generator.SCHEDULER),
    )
    return family, GenerationConfig.from_dict(generator.GENERATION)


BUILDERS = {"cogvideox": cogvideox, "wan": wan, "wan22": wan22, "mini": mini}


def write_folder(model: str, folder: Path, published: bool) -> None:
    """Writes a pipeline with random weights that both sides load.

    Args:
      published: the published sizes in bfloat16.
    """
    from pav_jax.mini.tokenizers import t5_tokenizer

    tokenizer = t5_tokenizer()
    tokenizer.model_max_length = 512
    if published:
        source = PUBLISHED / PUBLISHED_NAMES[model]
        kind = family_class(source)
        family = kind.outline(source, jnp.bfloat16, tokenizer=tokenizer)
        generation = kind.default_settings(source)
    else:
        family, generation = BUILDERS[model](tokenizer)
    VideoModel(family, random_params(family.param_shapes()), generation).save_pretrained(folder)


def random_params(shapes: Any) -> Any:
    """Weights scaled by fan-in and norms near one, so that activations neither vanish nor
    explode."""
    rng = np.random.default_rng(0)

    def leaf(path: Any, shape: jax.ShapeDtypeStruct) -> np.ndarray:
        name = path[-1].key
        is_stacked = any(getattr(key, "key", "") == "layers" for key in path)
        layer_shape = shape.shape[1:] if is_stacked else shape.shape
        values = rng.standard_normal(shape.shape, dtype=np.float32)
        if name == "scale":
            values = 1 + 0.1 * values
        elif name in ("kernel", "patch_kernel"):
            values *= 0.7 / math.sqrt(math.prod(layer_shape[:-1]))
        elif name != "embedding":
            values *= 0.05
        return values.astype(shape.dtype)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


# -------------------------------------------------------------------------------------------- FLOPs


@dataclasses.dataclass(frozen=True)
class Operations:
    """FLOPs of encoding one text, of one denoiser evaluation of one latent (half of a guided one),
    and of decoding one latent."""

    text: float
    denoiser: float
    decoder: float

    @classmethod
    def of(cls, family: Family, latent_shape: tuple[int, int, int, int]) -> "Operations":
        """Counts the FLOPs of a family."""
        denoiser, decoder = (
            (cogvideox_flops, cogvideox_decoder_flops)
            if isinstance(family, CogVideoX)
            else (wan_flops, wan_decoder_flops)
        )
        return cls(
            text_flops(family.text_encoder.config, family.sequence_length(None)),
            denoiser(family.transformer.config, latent_shape, family.sequence_length(None)),
            decoder(family.vae.config, latent_shape),
        )


def text_flops(config: T5Config, tokens: int) -> float:
    """One text in the T5 encoder."""
    heads = config.heads * config.head_size
    layer = 2 * tokens * config.width * (4 * heads + (3 if config.gated else 2) * config.ff_width)
    return config.layers * (layer + 4 * tokens**2 * heads)


def cogvideox_flops(
    config: CogVideoXConfig, latent_shape: tuple[int, int, int, int], text: int
) -> float:
    video = math.prod(config.grid(latent_shape[:3]))
    width = config.width
    temb = config.time_embed_dim
    tokens = video + text
    # qkvo 8 and feed-forward 16, attention, modulation
    layer = 24 * tokens * width**2 + 4 * tokens**2 * width + 24 * temb * width
    patch = config.patch_size**2 * (config.patch_size_t or 1)
    ends = 2 * video * width * patch * (config.in_channels + config.out_channels)
    ends += 2 * text * config.text_embed_dim * width + 2 * temb * (width + temb) + 4 * temb * width
    return config.num_layers * layer + ends


def wan_flops(config: WanConfig, latent_shape: tuple[int, int, int, int], text: int) -> float:
    video = math.prod(config.grid(latent_shape[:3]))
    width = config.width
    layer = 12 * video * width**2 + 4 * text * width**2  # qkvo of the video, qo and kv of the text
    layer += 4 * video * width * (video + text + config.ffn_dim)  # two attentions, feed-forward
    ends = (
        2
        * video
        * width
        * math.prod(config.patch_size)
        * (config.in_channels + config.out_channels)
    )
    ends += 2 * text * (config.text_dim + width) * width + 2 * width * (config.freq_dim + 7 * width)
    return config.num_layers * layer + ends


def conv(taps: int, fan_in: int, fan_out: int, places: int) -> float:
    """A convolution with `taps` window elements at `places` output positions."""
    return 2.0 * taps * fan_in * fan_out * places


def resnet(fan_in: int, fan_out: int, places: int) -> float:
    """Two convolutions of 3 x 3 x 3, and one of 1 x 1 x 1 where the width changes."""
    total = conv(27, fan_in, fan_out, places) + conv(27, fan_out, fan_out, places)
    return total + (conv(1, fan_in, fan_out, places) if fan_in != fan_out else 0.0)


def cogvideox_decoder_flops(
    config: CogVideoXVAEConfig, latent_shape: tuple[int, int, int, int]
) -> float:
    """In one chunk; the 1x1x1 convolutions of the norms at latent size, which suffices."""
    t, h, w, channels = latent_shape
    latent = t * h * w
    widths = config.block_out_channels[::-1]

    def block(fan_in: int, fan_out: int, places: int) -> float:
        return resnet(fan_in, fan_out, places) + conv(1, channels, 2 * (fan_in + fan_out), latent)

    before = widths[0]
    total = conv(27, channels, before, latent) + 2 * block(before, before, latent)
    for i, width in enumerate(widths):
        for _ in range(config.layers_per_block + 1):
            total += block(before, width, t * h * w)
            before = width
        if i < len(widths) - 1:
            if i < config.temporal_levels and t > 1:
                t = 2 * t - t % 2
            h = 2 * h
            w = 2 * w
            total += conv(9, width, width, t * h * w)
    total += conv(1, channels, 2 * widths[-1], latent)
    return total + conv(27, widths[-1], config.out_channels, t * h * w)


def wan_decoder_flops(config: WanVAEConfig, latent_shape: tuple[int, int, int, int]) -> float:
    t, h, w, channels = latent_shape
    widths = [(config.decoder_base_dim or config.base_dim) * m for m in config.dim_mult[::-1]]
    places = t * h * w
    before = widths[0]
    total = conv(1, channels, channels, places) + conv(27, channels, before, places)
    total += 2 * resnet(before, before, places)
    # attention within frames
    total += conv(1, before, 4 * before, places) + 4 * t * (h * w) ** 2 * before
    for i, width in enumerate(widths):
        for _ in range(config.num_res_blocks + 1):
            total += resnet(before, width, t * h * w)
            before = width
        if i < len(widths) - 1:
            if config.temperal_downsample[::-1][i]:
                total += conv(3, width, 2 * width, (t - 1) * h * w)
                t = 2 * t - 1
            h = 2 * h
            w = 2 * w
            before = width if config.is_residual else width // 2
            total += conv(9, width, before, t * h * w)
    return total + conv(27, before, config.out_channels, t * h * w)
