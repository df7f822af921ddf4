r"""The whole recipe for Wan 2.2 T2V-A14B with Llama-3-8B-Instruct, on one host.

    pav check --config=wan22_a14b
    TPU_TYPE=v6e-8 launch/watch.sh pav run --config=wan22_a14b \
        --workdir=$BUCKET/runs/wan22_a14b

The argument is a slice, v6e-8 (8 chips) or v5p-8 (4 chips: v5p counts cores, two per chip). The
generator samples as Wan's own configuration does: 40 UniPC steps, shift 12 (the published diffusers
folder has 3), guidance 4 for the expert of high noise and 3 for that of low noise, 81 frames of
480 x 832 at 16 frames per second. Of the 40 steps 26 are the first expert's. The two experts, 14.3
billion parameters each, and UMT5-XXL are bfloat16, spread over the chips, 7.2 GB of the experts on
each of 8; --config.generator.swap_experts=True holds one expert at a time, and copies each from the
host once a batch. The VAE is float32, whole on each chip. Each chip makes one video.

You supply the files that llama3_8b_video.py lists.

Compiled for a v6e-8 so far (docs/preflight.md): the denoiser needs 15.4 GiB of the 32 of a chip,
and at peak speed 146 seconds for 8 videos, 36 hours or 284 chip-hours for 7,000; expect twice that.
The VAE's later chunks and the programs for a v5p-8 are not compiled. Not run on a TPU.
"""

from pathlib import Path

from ml_collections import ConfigDict

from pav_jax.config import load

SLICES = {"v6e-8": ("v6e:2x4", 8), "v5p-8": ("v5p:2x2x1", 4)}


def get_config(tpu: str = "v6e-8") -> ConfigDict:
    """`tpu`: "v6e-8" or "v5p-8"."""
    if tpu not in SLICES:
        raise ValueError(f"slice {tpu!r}; choose one of {', '.join(SLICES)}")
    topology, chips = SLICES[tpu]
    config = load(Path(__file__).with_name("llama3_8b_video.py"))
    config.generator.path = "Wan-AI/Wan2.2-T2V-A14B-Diffusers"
    config.generator.dtype = "bfloat16"
    config.generator.num_frames = 81
    config.generator.height = 480
    config.generator.width = 832
    config.generator.num_inference_steps = 40
    config.generator.guidance_scale = 4.0
    config.generator.guidance_scale_2 = 3.0
    config.generator.flow_shift = 12.0
    config.check.topology = topology
    config.mesh.fsdp = chips
    config.generator.batch_size = chips
    config.generator.mesh.fsdp = -1
    return config
