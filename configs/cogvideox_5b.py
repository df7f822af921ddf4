r"""The whole recipe for CogVideoX-5B with Llama-3-8B-Instruct, on a v5p-8: 4 chips, 2 x 2 x 1, one
host.

    pav check --config=cogvideox_5b
    TPU_TYPE=v5p-8 launch/watch.sh pav run --config=cogvideox_5b \
        --workdir=$BUCKET/runs/cogvideox_5b \
        --config.evolve.prompts=evolve.txt --config.prefer.prompts=prefer.txt \
        --config.evaluate.prompts="{'test': 'test.txt'}"

You supply the prompt files, with one prompt per line. Videos are as in the method (arXiv
2412.15156): 33 frames (9 latent frames) of 480 x 720, 50 steps, dynamic guidance. Two folders are
converted, with the extra `torch`, from files of https://github.com/Kwai-Kolors/MPS and
https://github.com/LAION-AI/aesthetic-predictor:

    pav export --from=MPS_overall_checkpoint.pth --to=pav --out=mps \
        --tokenizer=laion/CLIP-ViT-H-14-laion2B-s32B-b79K
    pav export --from=sa_0_4_vit_l_14_linear.pth --to=pav --out=aesthetic_head

Memory, from the TPU compiler: denoiser 4.5 of 95 GiB per chip, text encoder 2.4, VAE in tiles 4.6;
on a v5e:2x4, with 49 frames and a video and an eighth of the weights on each
chip, 6.2 and 1.2 of 16, and the VAE, in tiles, 6.8.
Time, estimated from operations (19.7 PFLOP a video) at an assumed 40 % of the peak: 107 s for 4
videos; 130 hours, 520 chip-hours, for the 17500 videos of 500 prompts to evolve and 500 a round to
prefer; 2200 USD at 4.20 USD a chip-hour. Scoring, training and evaluation are extra. `pav check`
prints 44 to 57 s for 4 videos because it assumes the chips' full peak FLOP/s.
Not run on a TPU yet.
"""

from pathlib import Path

from ml_collections import ConfigDict

from pav_jax.config import load

FRAMES = 33


def get_config() -> ConfigDict:
    """The configuration: the DPO recipe of `llama3_8b.py` with the 5B generator on a v5p-8."""
    config = load(f"{Path(__file__).with_name('llama3_8b.py')}:dpo")
    config.check.topology = "v5p:2x2x1"
    config.check.programs = ("generator",)
    config.mesh.fsdp = 4
    config.sft.batch_size = 8
    config.dpo.batch_size = 32
    for fields in (config.sft, config.dpo):
        fields.gradient_accumulation_steps = 1

    config.generator.path = "THUDM/CogVideoX-5b"
    config.generator.dtype = "bfloat16"
    config.generator.num_frames = FRAMES
    config.generator.use_dynamic_cfg = True
    config.generator.vae_tiling = True
    config.generator.batch_size = 4
    config.generator.mesh.fsdp = 4  # a chip has one video and a quarter of the weights

    clip = dict(path="openai/clip-vit-large-patch14", frames=4, dtype="bfloat16")
    with config.unlocked():
        config.rewards.entries = dict(
            videoscore=dict(path="TIGER-Lab/VideoScore", dtype="bfloat16"),
            aesthetic=dict(**clip, head="aesthetic_head"),
            mps=dict(path="mps", dtype="bfloat16"),
            faithfulness=dict(),
        )
        config.rewards.weights = dict(VQ=1.0, TC=1.0, FC=1.0, DD=1.1, TVA=1.3, AES=0.8, MPS=1 / 3)
        config.rewards.thresholds = dict(
            VQ=2.6, TC=2.6, FC=2.55, DD=2.65, TVA=2.9, AES=5.5, MPS=8.5
        )
        config.evolve.weights = dict(VQ=1.0, TC=1.0, FC=1.0, TVA=1.0, DD=0.5, AES=0.625, MPS=0.25)
    config.evolve.max_prompts = 500
    config.prefer.max_prompts = 500
    return config
