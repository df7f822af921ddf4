r"""The whole recipe for CogVideoX-2B with Llama-3-8B-Instruct, on a v6e-8: 8 chips, 2 x 4, one
host.

    pav check --config=cogvideox_2b
    TPU_TYPE=v6e-8 launch/watch.sh pav run --config=cogvideox_2b \
        --workdir=$BUCKET/runs/cogvideox_2b \
        --config.evolve.prompts=evolve.txt --config.prefer.prompts=prefer.txt \
        --config.evaluate.prompts="{'test': 'test.txt'}"

Like cogvideox_5b.py, which describes the files, but with the deterministic DDIM sampler and the
constant guidance scale that the 2B model was published with.

Memory, from the TPU compiler: text encoder 1.2 of 32 GiB per chip, denoiser 2.0, VAE in tiles 4.2.
Time, estimated from operations (6.8 PFLOP a video) at an assumed 40 % of the peak: 19
s for 8 videos; 11 hours, 90 chip-hours, for the 17500 videos of evolve and prefer; 240 USD at 2.70
USD a chip-hour. Scoring, training and evaluation are extra. Not run on a TPU yet.
"""

from pathlib import Path

from ml_collections import ConfigDict

from pav_jax.config import load


def get_config() -> ConfigDict:
    """The configuration: `cogvideox_5b.py` with the 2B generator on a v6e-8."""
    config = load(str(Path(__file__).with_name("cogvideox_5b.py")))
    config.check.topology = "v6e:2x4"
    config.mesh.fsdp = 8
    config.generator.path = "THUDM/CogVideoX-2b"
    config.generator.use_dynamic_cfg = False
    config.generator.batch_size = 8
    config.generator.mesh.fsdp = 8
    return config
