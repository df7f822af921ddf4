"""A tiny random Wan pipeline, made in memory; shared by the tests of generation."""

import dataclasses

import numpy as np

from pav_jax.models.t5 import T5Config, T5Encoder
from pav_jax.models.wan.transformer import WanConfig, WanTransformer
from pav_jax.models.wan.vae import WanVAE, WanVAEConfig
from pav_jax.video import VideoModel, schedulers
from pav_jax.video.wan import Wan
from pav_jax.video.wan_experts import Boundary, WanExperts
from tests.video.tiny_pipeline import random_params, tiny_tokenizer

UNIPC = {
    "_class_name": "UniPCMultistepScheduler",
    "use_flow_sigmas": True,
    "prediction_type": "flow_prediction",
    "flow_shift": 3.0,
    "solver_order": 2,
}
EULER = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
SMALL_SETTINGS = dict(
    num_frames=5, height=16, width=32, num_inference_steps=2, guidance_scale=3.0, batch_size=2
)


def random_model(seed: int, scheduler: dict = UNIPC, kind: str = "2.1", **defaults) -> VideoModel:
    """kind: "2.1", "ti2v" with the residual VAE of Wan 2.2 TI2V-5B, or "a14b" with two experts."""
    rng = np.random.default_rng(seed)
    residual = {}
    if kind == "ti2v":
        residual = dict(is_residual=True, patch_size=2, in_channels=12, out_channels=12)
    vae = WanVAEConfig(
        base_dim=4,
        z_dim=4,
        dim_mult=(1, 2, 2),
        num_res_blocks=1,
        temperal_downsample=(False, True),
        latents_mean=tuple(rng.normal(size=4)),
        latents_std=tuple(rng.uniform(0.5, 2.0, 4)),
        **residual,
    )
    text = T5Config(
        vocab_size=20, width=16, head_size=4, heads=2, layers=2, ff_width=24, layer_bias=True
    )
    denoiser = WanConfig(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=16,
        freq_dim=8,
        ffn_dim=32,
        num_layers=2,
        rope_max_seq_len=64,
    )
    experts = {}
    if kind == "a14b":
        second = dataclasses.replace(denoiser, num_layers=1, ffn_dim=24)
        experts = dict(transformer_2=WanTransformer(second), conditions=Boundary(0.875))
    family = (WanExperts if experts else Wan)(
        tiny_tokenizer(8),
        T5Encoder(text),
        WanTransformer(denoiser),
        WanVAE(vae),
        schedulers.load(scheduler),
        default_sequence_length=8,
        expand_timesteps=kind == "ti2v",
        **experts,
    )
    scales = {"text_encoder": 0.3, "transformer": 0.15, "transformer_2": 0.15, "vae": 0.25}
    params = {
        name: random_params(shapes, rng, scales[name])
        for name, shapes in family.param_shapes().items()
    }
    return VideoModel(
        family, params, family.generation.replace("test", **SMALL_SETTINGS | defaults)
    )
