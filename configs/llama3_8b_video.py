"""What the recipes for published video models share: Llama-3-8B-Instruct rewrites, CLIP and motion
judge.

The files wan21*.py and opensora_12.py start from this one and name a generator and hardware. The
rewriter is that of llama3_8b.py.

Files to bring, or to name with --config.evolve.prompts=... and the like:
    prompts/{evolve,prefer,test}.txt   short user prompts, one a line; `test` shares none with the
    others models/aesthetic_head              pav export --from=sa_0_4_vit_l_14_linear.pth --to=pav
    --out=models/aesthetic_head
The weights of the rewards are one each; `pav calibrate` after `pav evolve` prints those that fit
the generator.
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
        fields.gradient_accumulation_steps = 1  # a part has rows for every chip

    config.evolve.prompts = "prompts/evolve.txt"
    config.prefer.prompts = "prompts/prefer.txt"
    with config.unlocked():
        config.rewards.entries.aesthetic = ConfigDict(
            dict(path=CLIP, head="models/aesthetic_head", frames=4)
        )
        config.rewards.entries.clip_alignment = ConfigDict(dict(path=CLIP, frames=4))
        config.evaluate.prompts = dict(test="prompts/test.txt")
    # `pav check` looks at a run with 200 prompts for evolution, SFT and each round.
    config.check.programs = ("sft", "dpo", "sample", "generator", "rewards")
    config.check.num_examples = 200
    return config
