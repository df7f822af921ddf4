r"""The whole recipe for Wan 2.1 14B with Llama-3-8B-Instruct on a v5p-8: 4 chips, 1 host.

    pav check --config=wan21_14b
    TPU_TYPE=v5p-8 launch/watch.sh pav run --config=wan21_14b \
        --workdir=$BUCKET/runs/wan21_14b

Memory, from the TPU compiler with `--quick`: text encoder 2.8 of 95 GiB per chip, denoiser 13.8,
VAE at its last resolution 10.3 (with full effort); on a v6e:2x4, with an eighth of the weights on
each chip, 1.6, 8.3 and 10.3 of 32 (all with full effort).
Time, estimated by `pav check`, which assumes the chips' full peak FLOP/s: 180 to 200 hours, 710 to
810 chip-hours, for the 7000 videos of 200 prompts; 3000 to 3400 USD at 4.20 USD a chip-hour. Expect
twice that. Not run on a TPU yet.
"""

from pathlib import Path

from ml_collections import ConfigDict

from pav_jax.config import load


def get_config() -> ConfigDict:
    """The configuration: `wan21.py` with the 14B generator on a v5p-8."""
    config = load(f"{Path(__file__).with_name('wan21.py')}:14B")
    config.check.topology = "v5p:2x2x1"  # v5p counts cores, two per chip
    config.mesh.fsdp = 4
    config.generator.batch_size = 4
    config.generator.mesh.fsdp = -1  # a chip has one video and its share of the weights
    return config
