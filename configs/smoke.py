"""The whole recipe on eight prompts, to check that everything runs; the scores are meaningless.

    pav run --config=smoke --workdir=runs/smoke

Hardware: 2 CPU cores and 4 GB of memory. Time: under a minute.
"""

from pathlib import Path

from ml_collections import ConfigDict

from pav_jax.config import load


def get_config() -> ConfigDict:
    """The configuration: `mini_full.py` with a few prompts, steps and seeds, and no thresholds."""
    config = load(Path(__file__).with_name("mini_full.py"))
    config.generator.batch_size = 8
    config.generator.num_inference_steps = 2
    config.evolve.max_prompts = 8
    config.evolve.rounds = 2
    config.evolve.num_rewrites = 2

    config.select.constraints = {}  # every generated rewrite may form a pair
    config.select.min_gain = -1000.0

    for stage in (config.sft, config.dpo, config.grpo):
        stage.max_steps = 4
        stage.batch_size = 4
        stage.gradient_accumulation_steps = 1
        stage.save_steps = 2
        stage.logging_steps = 1

    config.grpo.num_generations = 2

    config.prefer.max_prompts = 8
    config.prefer.num_return_sequences = 3
    config.prefer.margin = 0.0  # as above
    config.prefer.thresholds = {}
    config.prefer.constraints = {}

    config.evaluate.max_prompts = 4
    config.evaluate.seeds = (0,)
    config.evaluate.num_suffix_prompts = 2
    config.evaluate.num_resamples = 1000
    config.report.title = "Smoke test"
    return config
