"""A tiny random Open-Sora pipeline, made in memory; shared by the tests of generation."""

import numpy as np

from pav_jax.models.opensora.stdit import STDiT3, STDiT3Config
from pav_jax.models.opensora.vae import OpenSoraVAE, OpenSoraVAEConfig
from pav_jax.models.opensora.vae_spatial import AutoencoderKLConfig
from pav_jax.models.opensora.vae_temporal import TemporalVAEConfig
from pav_jax.models.t5 import T5Config, T5Encoder
from pav_jax.video import VideoModel
from pav_jax.video.opensora import Conditions, OpenSora
from pav_jax.video.schedulers.rectified_flow import RectifiedFlow
from tests.video.tiny_pipeline import random_params, tiny_tokenizer

SMALL_SETTINGS = dict(
    num_frames=34, height=8, width=4, num_inference_steps=2, guidance_scale=3.0, batch_size=2
)


def random_model(
    seed: int,
    scheduler: RectifiedFlow | None = None,
    conditions: Conditions | None = None,
    **defaults,
) -> VideoModel:
    """Clips of 17 frames, as published; 2 x 2 pixels per latent place instead of 8 x 8."""
    rng = np.random.default_rng(seed)
    vae = OpenSoraVAEConfig(
        AutoencoderKLConfig(block_out_channels=(4, 8), layers_per_block=1, norm_num_groups=2),
        TemporalVAEConfig(
            filters=4,
            num_res_blocks=1,
            channel_multipliers=(1, 2, 2),
            temporal_downsample=(True, True),
            num_groups=2,
        ),
        micro_batch_size=7,
    )
    text = T5Config(vocab_size=20, width=16, head_size=4, heads=2, layers=1, ff_width=24)
    denoiser = STDiT3Config(
        input_sq_size=16,
        hidden_size=24,
        depth=2,
        num_heads=2,
        caption_channels=16,
        model_max_length=14,
    )
    family = OpenSora(
        tiny_tokenizer(14),
        T5Encoder(text),
        STDiT3(denoiser),
        OpenSoraVAE(vae),
        scheduler or RectifiedFlow(),
        conditions=conditions or Conditions(),
    )
    scales = {"text_encoder": 0.3, "transformer": 0.2, "vae": 0.25}
    params = {
        name: random_params(shapes, rng, scales[name])
        for name, shapes in family.param_shapes().items()
    }
    params["transformer"]["rotary_frequencies"] = 1 / 30 ** rng.random(6, np.float32)
    params["vae"] |= {
        f"latent_{name}": np.float32(getattr(vae, name)).reshape(1, 4, 1, 1, 1)
        for name in ("shift", "scale")
    }
    return VideoModel(
        family, params, family.generation.replace("test", **SMALL_SETTINGS | defaults)
    )
