"""Tiny random pipelines of diffusers in folders, for the back end's tests."""

from pathlib import Path

import diffusers
import torch
import transformers

from tests.video.tiny_pipeline import random_model, tiny_tokenizer

SCHEDULER = {
    "_class_name": "CogVideoXDPMScheduler",
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
    "rescale_betas_zero_snr": True,
}  # this one draws noise at every step


def save_video_pipeline(folder: Path) -> Path:
    """A CogVideoX of 5 frames of 8 x 16 that also runs in JAX."""
    random_model(
        3,
        SCHEDULER,
        num_frames=5,
        height=8,
        width=16,
        num_inference_steps=2,
        guidance_scale=3.0,
        fps=6,
        batch_size=2,
    ).save_pretrained(folder)
    return folder


def save_image_to_video_pipeline(folder: Path) -> Path:
    """A CogVideoX-I2V of 5 frames of 8 x 16: latents of the image are further input channels."""
    source = diffusers.CogVideoXPipeline.from_pretrained(save_video_pipeline(folder))
    torch.manual_seed(0)
    config = dict(source.transformer.config) | {
        "in_channels": 2 * source.vae.config.latent_channels
    }
    denoiser = diffusers.CogVideoXTransformer3DModel.from_config(config)
    vae = diffusers.AutoencoderKLCogVideoX.from_config(source.vae.config)
    with torch.no_grad():
        for parameter in (*denoiser.parameters(), *vae.parameters()):
            parameter.add_(0.15 * torch.randn_like(parameter))
    diffusers.CogVideoXImageToVideoPipeline(
        source.tokenizer, source.text_encoder, vae.eval(), denoiser.eval(), source.scheduler
    ).save_pretrained(folder)
    return folder


def save_image_pipeline(folder: Path) -> Path:
    """A PixArt-Sigma of 16 x 16 pixels."""
    torch.manual_seed(0)
    text = transformers.T5EncoderModel(
        transformers.T5Config(vocab_size=20, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2)
    )
    denoiser = diffusers.PixArtTransformer2DModel(
        sample_size=8,
        num_layers=1,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_channels=16,
        in_channels=4,
        cross_attention_dim=16,
        out_channels=8,
        norm_type="ada_norm_single",
        use_additional_conditions=False,
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        sample_size=16,
    )
    with torch.no_grad():
        for parameter in (*denoiser.parameters(), *vae.parameters()):
            parameter.add_(0.15 * torch.randn_like(parameter))
    pipeline = diffusers.PixArtSigmaPipeline(
        tiny_tokenizer(8),
        text.eval(),
        vae.eval(),
        denoiser.eval(),
        diffusers.DPMSolverMultistepScheduler(),
    )
    pipeline.save_pretrained(folder)
    return folder
