"""The whole recipe for Wan 2.1 14B with Llama-3-8B-Instruct on a v5p-8: 4 chips, 1 host.

    pav check --config=configs/wan21_14b.py
    TPU_TYPE=v5p-8 launch/run.sh pav run --config=configs/wan21_14b.py --workdir=$BUCKET/runs/wan21_14b

Memory: the generator's weights are 37.7 GiB, counted from the published sizes; spread over four chips they take 9.8 of
95 GiB each, over the eight of a v6e-8 5.1 of 32, for the VAE stays whole. There, by the compiler, the text encoder
needs 1.6 GiB per chip and the denoiser 8.3; the VAE was not compiled. For the v5p-8, and the time of a run, the first
command prints them; 200 prompts ask for 7000 videos.
Not run on a TPU yet.
"""

from pathlib import Path

from ml_collections import ConfigDict

from pav_jax.config import load


def get_config() -> ConfigDict:
    config = load(f"{Path(__file__).with_name('wan21.py')}:14B")
    config.check.topology = "v5p:2x2x1"  # v5p counts cores, two per chip
    config.mesh.fsdp = 4
    config.generator.batch = 4
    config.generator.mesh.fsdp = -1  # a chip has one video and its share of the weights
    return config
