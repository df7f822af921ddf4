"""The whole recipe for Wan 2.1 1.3B with Llama-3-8B-Instruct on a v6e-8: 8 chips, 1 host.

    pav check --config=configs/wan21_1_3b.py
    TPU_TYPE=v6e-8 launch/run.sh pav run --config=configs/wan21_1_3b.py --workdir=$BUCKET/runs/wan21_1_3b

Memory: the generator's weights take 13.7 of 32 GiB per chip, counted from the published sizes. What its activations
add, and the time of a run: the first command prints them; 200 prompts ask for 7000 videos.
Not run on a TPU yet.
"""

from pathlib import Path

from ml_collections import ConfigDict

from pav_jax.config import load


def get_config() -> ConfigDict:
    config = load(f"{Path(__file__).with_name('wan21.py')}:1.3B")
    config.check.topology = "v6e:2x4"
    config.mesh.fsdp = 8
    config.generator.batch = 8  # one video per chip
    return config
