"""Trains the mini generator and writes checkpoints/generator, which must contain its VAE:

    python -m pav_jax.mini.training.generator

A CogVideoX with captions in whole sentences (`captions.caption`), trained with v-prediction.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from pav_jax.checkpoints.embedded import CHECKPOINTS
from pav_jax.mini import world as w
from pav_jax.mini.captions import caption
from pav_jax.mini.tokenizers import t5_tokenizer
from pav_jax.mini.training.generator_trainer import (
    TEXT_TOKENS,
    GeneratorTrainer,
    TrainingPhase,
    model_index,
)
from pav_jax.models.cogvideox import transformer_hf, vae_hf
from pav_jax.models.cogvideox.transformer import CogVideoXConfig, CogVideoXTransformer
from pav_jax.models.cogvideox.vae import CogVideoXVAE
from pav_jax.models.t5 import T5Config, T5Encoder
from pav_jax.video.schedulers.schedule import NoiseSchedule

DENOISER = CogVideoXConfig(
    num_attention_heads=4,
    attention_head_dim=48,
    in_channels=16,
    out_channels=16,
    num_layers=4,
    time_embed_dim=128,
    text_embed_dim=128,
    sample_width=16,
    sample_height=16,
    sample_frames=w.FRAMES,
    patch_size=2,
    max_text_seq_length=TEXT_TOKENS,
    spatial_interpolation_scale=1.0,
)
SCHEDULER = {
    "_class_name": "CogVideoXDDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "snr_shift_scale": 1.0,
    "timestep_spacing": "trailing",
    "set_alpha_to_one": True,
    "clip_sample": False,
}
GENERATION = {
    "num_frames": w.FRAMES,
    "height": w.HEIGHT,
    "width": w.WIDTH,
    "num_inference_steps": 8,
    "guidance_scale": 3.0,
    "use_dynamic_cfg": False,
    "fps": 8,
    "batch_size": 16,
}
FOLDER = CHECKPOINTS / "generator"


def t5_config() -> T5Config:
    """The configuration of the text encoder."""
    return T5Config(
        vocab_size=len(t5_tokenizer()), width=128, head_size=32, heads=4, layers=3, ff_width=256
    )


class CogVideoXTrainer(GeneratorTrainer):
    """The first generator's training."""

    prefix = ""
    folder = FOLDER
    phases = (TrainingPhase(4000, 3e-3, 0), TrainingPhase(7000, 2e-3, 1))
    denoiser_layout = transformer_hf
    vae_layout = vae_hf
    vae = CogVideoXVAE
    scheduler = SCHEDULER
    generation = GENERATION
    index = model_index(
        "CogVideoXPipeline",
        "CogVideoXDDIMScheduler",
        "T5EncoderModel",
        "CogVideoXTransformer3DModel",
        "AutoencoderKLCogVideoX",
    )

    def __init__(self):
        self.t5 = T5Encoder(t5_config(), unroll=3)
        self.denoiser = CogVideoXTransformer(DENOISER, unroll=DENOISER.num_layers)
        self._noise = NoiseSchedule.from_config(SCHEDULER)

    def caption(self, scene: w.Scene, rng: np.random.Generator) -> str:
        """A random caption of a scene."""
        return caption(scene, rng)

    def encode_text(self, t5_params: dict, ids_BxS: Array) -> tuple[Array, None]:
        """Text embeddings [B, S, U] of token ids [B, S]; no mask."""
        embedding: Any = self.t5.apply({"params": t5_params}, ids_BxS)
        return embedding, None

    def add_noise(self, clean: Array, noise: Array, level_B: Array) -> tuple[Array, Array, Array]:
        """(noisy latents, timesteps [B], velocity targets) at noise levels [B]."""
        t = jnp.clip((level_B * 1000).astype(jnp.int32), 0, 999)
        return self._noise.add_noise(clean, noise, t), t, self._noise.velocity(clean, noise, t)


if __name__ == "__main__":
    CogVideoXTrainer().train()
