"""What the recipes for published video models share: Llama-3-8B-Instruct as the rewriter, and
rewards from CLIP and motion.

wan21*.py and opensora_12.py extend this file with a generator and hardware. The rewriter is that
of llama3_8b.py; --config.rewriter.path=Qwen/Qwen3-8B, Qwen/Qwen3-4B or google/gemma-3-4b-it takes
another one.

You supply these files, or set --config.evolve.prompts=... and so on:

    prompts/{evolve,prefer,test}.txt: short user prompts, one per line; `test` shares none with the
        others
    models/aesthetic_head: written, with the extra `torch`, from a file of
        https://github.com/LAION-AI/aesthetic-predictor by
        pav export --from=sa_0_4_vit_l_14_linear.pth --to=pav --out=models/aesthetic_head

Each reward has weight 1; `pav calibrate` after `pav evolve` prints weights that fit the generator.
"""

from pathlib import Path

from ml_collections import ConfigDict

from pav_jax.config import load

CLIP = "openai/clip-vit-large-patch14"


def get_config() -> ConfigDict:
    """The shared configuration: `llama3_8b.py` with prompt files and video rewards."""
    config = load(Path(__file__).with_name("llama3_8b.py"))
    for fields in (config.sft, config.dpo):
        fields.batch_size = 32
        fields.gradient_accumulation_steps = 1  # every chip needs rows of each part

    config.evolve.prompts = "prompts/evolve.txt"
    config.prefer.prompts = "prompts/prefer.txt"
    with config.unlocked():
        config.rewards.entries.aesthetic = ConfigDict(
            dict(path=CLIP, head="models/aesthetic_head", frames=4)
        )
        config.rewards.entries.clip_alignment = ConfigDict(dict(path=CLIP, frames=4))
        config.evaluate.prompts = dict(test="prompts/test.txt")
    # `pav check` assumes 200 prompts for evolution, SFT and each round.
    config.check.programs = ("sft", "dpo", "sample", "generator", "rewards")
    config.check.num_examples = 200
    return config
