r"""The whole recipe for Wan 2.2 TI2V-5B, text to video, with Llama-3-8B-Instruct, on one host of 8
chips.

    pav check --config=wan22_ti2v_5b
    TPU_TYPE=v6e-8 launch/watch.sh pav run --config=wan22_ti2v_5b \
        --workdir=$BUCKET/runs/wan22_ti2v_5b

The argument is a slice, v6e-8 or v5e-8. The generator samples as Wan's own configuration does: 50
UniPC steps, shift 5, guidance 5, 121 frames of 704 x 1280 at 24 frames per second, the only size
besides 1280 x 704 that it was trained on. The denoiser and UMT5-XXL are bfloat16, spread over the
chips; the residual VAE is float32, whole on each chip. Each chip makes one video. On a v5e-8, whose
chips have half the memory, the VAE decodes tiles, as diffusers' `enable_vae_tiling()` does.

You supply the files that llama3_8b_video.py lists.

Compiled for a v6e-8 in part (docs/preflight.md): the largest program so far needs 8.0 GiB of a
chip's 32; the denoiser alone takes 17 hours and 360 USD for 7000 videos at peak speed. Not run on
a TPU.
"""

from pathlib import Path

from ml_collections import ConfigDict

from pav_jax.config import load

SLICES = {"v6e-8": "v6e:2x4", "v5e-8": "v5e:2x4"}


def get_config(tpu: str = "v6e-8") -> ConfigDict:
    """`tpu`: "v6e-8" or "v5e-8"."""
    if tpu not in SLICES:
        raise ValueError(f"slice {tpu!r}; choose one of {', '.join(SLICES)}")
    config = load(Path(__file__).with_name("llama3_8b_video.py"))
    config.generator.path = "Wan-AI/Wan2.2-TI2V-5B-Diffusers"
    config.generator.dtype = "bfloat16"
    config.generator.num_frames = 121
    config.generator.height = 704
    config.generator.width = 1280
    config.generator.num_inference_steps = 50
    config.generator.guidance_scale = 5.0
    config.generator.flow_shift = 5.0
    config.generator.vae_tiling = tpu == "v5e-8"
    config.check.topology = SLICES[tpu]
    config.mesh.fsdp = 8
    config.generator.batch_size = 8
    config.generator.mesh.fsdp = -1
    return config
