"""Trains the second mini generator and writes checkpoints/generator_wan, which must contain its VAE
(`wan_vae`):

    python -m pav_jax.mini.training.wan

A Wan 2.1 with captions as lists of tags, in words that are rare in the first generator's captions
(`captions.tag_caption`), trained with flow matching.
"""

import dataclasses
from typing import Any, cast

import numpy as np
from jaxtyping import Array

from pav_jax.checkpoints.embedded import CHECKPOINTS
from pav_jax.mini import world as w
from pav_jax.mini.captions import tag_caption
from pav_jax.mini.training import generator
from pav_jax.mini.training.generator_trainer import GeneratorTrainer, TrainingPhase, model_index
from pav_jax.models.t5 import T5Config, T5Encoder
from pav_jax.models.wan import transformer_hf, vae_hf
from pav_jax.models.wan.transformer import WanConfig, WanTransformer
from pav_jax.models.wan.vae import WanVAE
from pav_jax.video.schedulers import flow
from pav_jax.video.wan_text import encode_without_padding

DENOISER = WanConfig(
    num_attention_heads=4,
    attention_head_dim=42,
    in_channels=16,
    out_channels=16,
    text_dim=128,
    freq_dim=64,
    ffn_dim=336,
    num_layers=4,
)
SHIFT = 2.0
SCHEDULER = {
    "_class_name": "UniPCMultistepScheduler",
    "num_train_timesteps": 1000,
    "use_flow_sigmas": True,
    "prediction_type": "flow_prediction",
    "flow_shift": SHIFT,
    "solver_order": 2,
    "solver_type": "bh2",
}
GENERATION = {
    name: value for name, value in generator.GENERATION.items() if name != "use_dynamic_cfg"
}


def t5_config() -> T5Config:
    """The configuration of the text encoder."""
    return dataclasses.replace(generator.t5_config(), ff_width=128, layer_bias=True)


class WanTrainer(GeneratorTrainer):
    """The second generator's training."""

    prefix = "wan_"
    folder = CHECKPOINTS / "generator_wan"
    phases = (TrainingPhase(3500, 3e-3, 1),)
    denoiser_layout = transformer_hf
    vae_layout = vae_hf
    vae = WanVAE
    scheduler = SCHEDULER
    generation = GENERATION
    index = model_index(
        "WanPipeline",
        "UniPCMultistepScheduler",
        "UMT5EncoderModel",
        "WanTransformer3DModel",
        "AutoencoderKLWan",
    )

    def __init__(self):
        self.t5 = T5Encoder(t5_config(), unroll=3)
        self.denoiser = WanTransformer(DENOISER, unroll=DENOISER.num_layers)

    def caption(self, scene: w.Scene, rng: np.random.Generator) -> str:
        """A random list of tags of a scene."""
        return tag_caption(scene, rng)

    def encode_text(self, t5_params: dict, ids_BxS: Array) -> tuple[Array, Array]:
        """Text embeddings and mask of token ids [B, S], without the padding."""
        return encode_without_padding(self.t5, t5_params, ids_BxS)

    def add_noise(self, clean: Array, noise: Array, level_B: Array) -> tuple[Array, Array, Array]:
        """(noisy latents, timesteps [B], flow targets) at noise levels [B]."""
        sigma_B: Any = flow.shifted(cast(Any, level_B), SHIFT)
        sigma = sigma_B[:, None, None, None, None]
        return (1 - sigma) * clean + sigma * noise, sigma_B * 1000, noise - clean


if __name__ == "__main__":
    WanTrainer().train()
