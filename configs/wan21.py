"""What the Wan 2.1 configurations share: the whole recipe, with Llama-3-8B as the rewriter.

    pav check --config=wan21:1.3B --topology=v6e:2x4
    pav check --config=wan21:14B --topology=v5p:2x2x1

wan21_<size>.py extend this file with hardware. The generator samples as
diffusers' WanPipeline does: 50 UniPC steps, guidance 5, 512 text tokens, 81 frames of 480 x 832 at
16 frames per second. Each chip makes whole videos. The denoiser and UMT5-XXL (5.7 billion
parameters) are bfloat16, the VAE is float32; every chip holds all of them unless generator.mesh
spreads the first two. The frozen rewriter is bfloat16, spread over the chips; adapters and the
optimizer's state are float32.

You supply the files that llama3_8b_video.py lists.
"""

from pathlib import Path

from ml_collections import ConfigDict

from pav_jax.config import load

SIZES = ("1.3B", "14B")


def get_config(size: str = "1.3B") -> ConfigDict:
    """`size`: "1.3B" or "14B", of the generator."""
    if size not in SIZES:
        raise ValueError(f"size {size!r}; choose one of {', '.join(SIZES)}")
    config = load(Path(__file__).with_name("llama3_8b_video.py"))
    config.generator.path = f"Wan-AI/Wan2.1-T2V-{size}-Diffusers"
    config.generator.dtype = "bfloat16"
    config.generator.num_frames = 81
    config.generator.height = 480
    config.generator.width = 832
    config.generator.num_inference_steps = 50
    config.generator.guidance_scale = 5.0
    return config
