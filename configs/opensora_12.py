"""The whole recipe for Open-Sora 1.2 with Llama-3-8B-Instruct on a v5p-8: 4 chips, 1 host.

    pav check --config=configs/opensora_12.py
    TPU_TYPE=v5p-8 launch/run.sh pav run --config=configs/opensora_12.py --workdir=$BUCKET/runs/opensora_12

Open-Sora comes in parts; put them into models/OpenSora-v1.2 as pav_jax/video/opensora.py says. It samples as published:
30 steps of rectified flow, guidance 7, 51 frames of 720 x 1280 at 24 frames per second, aesthetic score 6.5 appended to
every prompt. Each chip makes whole videos, so it holds all of the generator in bfloat16. The frozen rewriter is
bfloat16, spread over the chips; adapters and the optimizer's state are float32.

Files to bring, or to name with --config.evolve.prompts=... and the like:
    prompts/{evolve,prefer,test}.txt   short user prompts, one a line; `test` shares none with the others
    models/aesthetic_head              pav export --from=sa_0_4_vit_l_14_linear.pth --to=pav --out=models/aesthetic_head
The weights of the rewards are one each; `pav calibrate` after `pav evolve` prints those that fit this generator.

Memory, by arithmetic: the weights of the generator are 6.36 billion, 11.9 of 95 GiB per chip; a guided 720p video adds
a few more, for attention is computed block after block.
Time, by arithmetic: a video takes 8.5 PFLOP of guided steps and 0.5 of decoding, 40 to 80 s at 25 to 50 % of a chip's
peak; with 200 prompts the 5000 videos of evolution and 2000 of both rounds are 20 to 40 hours. These are estimates: the
generator's program was not compiled for this slice, nor run on a TPU yet.
"""

from pathlib import Path

from ml_collections import ConfigDict

from pav_jax import defaults

CLIP = "openai/clip-vit-large-patch14"


def get_config() -> ConfigDict:
    config = defaults.get_config()
    config.generator.path = "models/OpenSora-v1.2"
    config.generator.dtype = "bfloat16"
    config.generator.batch = 4  # one video per chip
    config.generator.num_frames = 51
    config.generator.height = 720
    config.generator.width = 1280
    config.generator.steps = 30
    config.generator.guidance_scale = 7.0

    config.rewriter.path = "meta-llama/Meta-Llama-3-8B-Instruct"
    config.rewriter.dtype = "bfloat16"
    config.rewriter.template = str(Path(defaults.__file__).parent / "language" / "templates" / "rewriter_llama3.jinja")
    for fields in (config.sft, config.dpo):
        fields.batch_size = 32
        fields.grad_accumulation = 1
        fields.length_buckets = (512, 1024)  # a short prompt and its rewrite fit the first: that is nearly all rows
        fields.save_every = 50
    config.mesh.fsdp = 4

    config.evolve.prompts = "prompts/evolve.txt"
    config.prefer.prompts = "prompts/prefer.txt"
    with config.unlocked():
        config.rewards.entries.aesthetic = ConfigDict(dict(path=CLIP, head="models/aesthetic_head", frames=4))
        config.rewards.entries.clip_alignment = ConfigDict(dict(path=CLIP, frames=4))
        config.evaluate.prompts = dict(test="prompts/test.txt")
        # what `pav check` looks at: a run with 200 prompts for evolution, SFT and each round; v5p counts cores, two per
        # chip
        config.check = dict(topology="v5p:2x2x1", slices=1, examples=200)
    return config
