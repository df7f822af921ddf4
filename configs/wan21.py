"""What the Wan 2.1 experiments share: the whole recipe, a Llama-3-8B rewriter for a Wan generator.

    pav check --config=configs/wan21.py:1.3B --topology=v6e:2x4
    pav check --config=configs/wan21.py:14B --topology=v5p:2x2x1

The files wan21_<size>.py start from this one and put it on hardware. The generator samples as diffusers' WanPipeline
does: 50 UniPC steps, guidance 5, 512 text tokens, 81 frames of 480 x 832 at 16 frames per second. Each chip makes whole
videos, so it holds all of the generator: the denoiser and UMT5-XXL (5.7 billion parameters) in bfloat16, the VAE in
float32. The frozen rewriter is bfloat16, spread over the chips; adapters and the optimizer's state are float32.

Files to bring, or to name with --config.evolve.prompts=... and the like:
    prompts/{evolve,prefer,test}.txt   short user prompts, one a line; `test` shares none with the others
    models/aesthetic_head              pav export --from=sa_0_4_vit_l_14_linear.pth --to=pav --out=models/aesthetic_head
The weights of the rewards are one each; `pav calibrate` after `pav evolve` prints those that fit this generator.
"""

from pathlib import Path

from ml_collections import ConfigDict

from pav_jax import defaults

SIZES = ("1.3B", "14B")
CLIP = "openai/clip-vit-large-patch14"


def get_config(size: str = "1.3B") -> ConfigDict:
    """`size`: "1.3B" or "14B", of the generator."""
    if size not in SIZES:
        raise ValueError(f"size {size!r}; choose one of {', '.join(SIZES)}")
    config = defaults.get_config()
    config.generator.path = f"Wan-AI/Wan2.1-T2V-{size}-Diffusers"
    config.generator.dtype = "bfloat16"
    config.generator.num_frames = 81
    config.generator.height = 480
    config.generator.width = 832
    config.generator.steps = 50
    config.generator.guidance_scale = 5.0

    config.rewriter.path = "meta-llama/Meta-Llama-3-8B-Instruct"
    config.rewriter.dtype = "bfloat16"
    config.rewriter.template = str(Path(defaults.__file__).parent / "language" / "templates" / "rewriter_llama3.jinja")
    for fields in (config.sft, config.dpo):
        fields.batch_size = 32
        fields.length_buckets = (512, 1024)  # a short prompt and its rewrite fit the first: that is nearly all rows
        fields.save_every = 50
    config.mesh.fsdp = -1

    config.evolve.prompts = "prompts/evolve.txt"
    config.prefer.prompts = "prompts/prefer.txt"
    with config.unlocked():
        config.rewards.entries.aesthetic = ConfigDict(dict(path=CLIP, head="models/aesthetic_head", frames=4))
        config.rewards.entries.clip_alignment = ConfigDict(dict(path=CLIP, frames=4))
        config.evaluate.prompts = dict(test="prompts/test.txt")
        # what `pav check` looks at: a run with 200 prompts for evolution, SFT and each round
        config.check = dict(topology="", slices=1, examples=200)
    return config
