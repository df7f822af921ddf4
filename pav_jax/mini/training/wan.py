"""Trains the second mini generator: `python -m pav_jax.mini.training.wan` writes
checkpoints/generator_wan (its vae, of `train_wan_vae`, is first).

A Wan 2.1 that reads lists of tags, in words that are rare to the first generator
(`captions.tag_caption`), and learns the flow from noise to data; how it learns is in `drawing.py`.
"""

import dataclasses

import numpy as np
from jaxtyping import Array

from pav_jax.checkpoints.embedded import CHECKPOINTS
from pav_jax.mini import drawing
from pav_jax.mini import world as w
from pav_jax.mini.captions import tag_caption
from pav_jax.mini.drawing import Draughtsman, Leg
from pav_jax.mini.training import generator
from pav_jax.models.t5 import T5Config, T5Encoder
from pav_jax.models.wan import transformer_hf, vae_hf
from pav_jax.models.wan.transformer import WanConfig, WanTransformer
from pav_jax.models.wan.vae import WanVAE
from pav_jax.video.schedulers import flow
from pav_jax.video.wan import read_text

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
INDEX = drawing.model_index(
    "WanPipeline",
    "UniPCMultistepScheduler",
    "UMT5EncoderModel",
    "WanTransformer3DModel",
    "AutoencoderKLWan",
)


def t5_config() -> T5Config:
    return dataclasses.replace(generator.t5_config(), ff_width=128, layer_bias=True)


class WanGenerator(Draughtsman):
    prefix, folder = "wan_", CHECKPOINTS / "generator_wan"
    legs = (Leg(3500, 3e-3, 1),)
    denoiser_layout, vae_layout, vae = transformer_hf, vae_hf, WanVAE
    scheduler, generation, index = SCHEDULER, GENERATION, INDEX

    def __init__(self):
        self.t5 = T5Encoder(t5_config(), unroll=3)
        self.dit = WanTransformer(DENOISER, unroll=DENOISER.num_layers)

    def caption(self, scene: w.Scene, rng: np.random.Generator) -> str:
        return tag_caption(scene, rng)

    def read(self, t5_params: dict, ids_BxS: Array) -> tuple[Array, Array]:
        return read_text(self.t5, t5_params, ids_BxS)

    def noised(self, clean: Array, noise: Array, level_B: Array) -> tuple[Array, Array, Array]:
        sigma_B = flow.shifted(level_B, SHIFT)
        sigma = sigma_B[:, None, None, None, None]
        return (1 - sigma) * clean + sigma * noise, sigma_B * 1000, noise - clean


if __name__ == "__main__":
    drawing.main(WanGenerator)
