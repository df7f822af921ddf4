r"""The whole recipe for Wan 2.1 1.3B with Llama-3-8B-Instruct on a v6e-8: 8 chips, 1 host.

    pav check --config=wan21_1_3b
    TPU_TYPE=v6e-8 launch/watch.sh pav run --config=wan21_1_3b \
        --workdir=$BUCKET/runs/wan21_1_3b

Memory, from the TPU compiler with `--quick`: text encoder 10.8 of 32 GiB per chip, denoiser 5.1,
VAE at its last resolution 10.3 (with full effort), the rewriter's training 9.0 at most.
Time, estimated by `pav check`, which assumes the chips' full peak FLOP/s: 8 to 12 hours, 64 to
94 chip-hours, for the 7000 videos of 200 prompts; 170 to 250 USD at 2.70 USD a chip-hour. Expect
twice that. Not run on a TPU yet.
"""

from pathlib import Path

from ml_collections import ConfigDict

from pav_jax.config import load


def get_config() -> ConfigDict:
    """The configuration: `wan21.py` with the 1.3B generator on a v6e-8."""
    config = load(f"{Path(__file__).with_name('wan21.py')}:1.3B")
    config.check.topology = "v6e:2x4"
    config.mesh.fsdp = 8
    config.generator.batch_size = 8  # one video per chip
    return config
