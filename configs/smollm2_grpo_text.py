"""Group relative policy optimization of SmolLM2's booster on rewards that read texts only: FAITH,
the likelihood under the style that SFT learned, and the length. No video is made.

    python benchmarks/vbench.py --workdir=runs/vbench --config.data=vbench_prompts.jsonl
    pav grpo --config=smollm2_grpo_text --workdir=runs/vbench_grpo

The first command writes the booster of SFT and the training prompts of VBench, without those that
are held out. Another booster: `--config.grpo.start=FOLDER
--config.rewards.entries.likelihood.path=FOLDER`; other prompts: `--config.grpo.prompts=FILE`.

Hardware: one accelerator, or two CPU cores and 8 GB.
"""

from pathlib import Path

from ml_collections import ConfigDict

from pav_jax.config import load

VBENCH = "runs/vbench"
START = f"{VBENCH}/sft/booster"


def get_config() -> ConfigDict:
    """The configuration: `smollm2_vbench.py` with GRPO on texts, started from its SFT booster."""
    config = load(Path(__file__).with_name("smollm2_vbench.py"))
    with config.unlocked():
        config.rewards.entries = {
            "faithfulness": {},
            # texts that repeat themselves are the likeliest: more than -1 nat per token is no gain
            "likelihood": {"path": START, "max_length": 512, "maximum": -1.0},
            "length": {"minimum": 60, "maximum": 130},
        }
        config.rewards.weights = {"LIKELIHOOD": 1.0, "LENGTH": 1.0}
        config.evaluate.rewrite_files = {"sft": START}

    config.grpo.start = START
    config.grpo.prompts = f"{VBENCH}/sft_pairs.jsonl"
    config.grpo.faith_weight = 5.0  # the loss of a fifth of the user's words costs a nat per token
    config.grpo.beta = 0.04
    config.grpo.max_steps = 50
    config.grpo.batch_size = 32
    config.grpo.learning_rate = 2e-5
    config.grpo.lora.r = 16
    config.grpo.lora.lora_alpha = 32.0
    config.grpo.remat = False
    config.grpo.loss_chunk_size = 64
    config.evaluate.systems = ("original", "grpo")
    config.evaluate.controls = False
    return config
