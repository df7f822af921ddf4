r"""The whole recipe for Open-Sora 1.2 with Llama-3-8B-Instruct on a v5p-8: 4 chips, 1 host.

    pav check --config=opensora_12
    TPU_TYPE=v5p-8 launch/watch.sh pav run --config=opensora_12 \
        --workdir=$BUCKET/runs/opensora_12

Open-Sora is published as separate models; put them into models/OpenSora-v1.2 as described in
pav_jax/video/opensora.py. It samples as published: 30 steps of rectified flow, guidance 7, 51
frames of 720 x 1280 at 24 frames per second, aesthetic score 6.5 appended to every prompt. Each
chip makes a video; the weights of generator and frozen rewriter are bfloat16, spread over the
chips; adapters and the optimizer's state are float32.

You supply the files that llama3_8b_video.py lists.

Memory: the generator's 6.36 billion parameters take 3.5 GiB per chip; the VAE is not sharded.
Compiled for the smaller v5e:2x2, where memory per chip is the same, the text encoder needs 2.3 and
the denoiser 6.4 of 16 GiB per chip, and the VAE, compiled for the v5p, 4.3; decoding 720p four
frames at once needed 14.1, so large frames are decoded one at a time.
Time, estimated from operations: a video takes 8.5 PFLOP of guided steps and 0.5 of decoding, 40 to
80 s at 25 to 50 % of a chip's peak; with 200 prompts the 5000 videos of evolution and 2000 of both
rounds are 20 to 40 hours, 80 to 160 chip-hours; 340 to 670 USD at 4.20 USD a chip-hour. Not run on
a TPU yet.
"""

from pathlib import Path

from ml_collections import ConfigDict

from pav_jax.config import load


def get_config() -> ConfigDict:
    """The configuration: `llama3_8b_video.py` with Open-Sora 1.2 on a v5p-8."""
    config = load(Path(__file__).with_name("llama3_8b_video.py"))
    config.check.topology = "v5p:2x2x1"  # v5p counts cores, two per chip
    config.mesh.fsdp = 4
    config.generator.path = "models/OpenSora-v1.2"
    config.generator.dtype = "bfloat16"
    config.generator.batch_size = 4
    config.generator.mesh.fsdp = -1  # a chip has one video and its share of the weights
    config.generator.num_frames = 51
    config.generator.height = 720
    config.generator.width = 1280
    config.generator.num_inference_steps = 30
    config.generator.guidance_scale = 7.0
    return config
