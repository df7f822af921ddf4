"""What a run of the recipe makes at most: videos, training steps and tokens of each stage."""

import dataclasses
import math
from typing import Any

from pav_jax.candidates.prompt_sets import read_prompt_set, read_sets
from pav_jax.candidates.prompt_text import usable_prompts
from pav_jax.components import round_prompts
from pav_jax.evaluate.controls import suffixes
from pav_jax.train.state import count_steps


@dataclasses.dataclass(frozen=True)
class StagePlan:
    """Upper bounds of one stage.

    Attributes:
      name: the stage, such as "prefer_1".
      videos: number of videos, without previews.
      steps: number of optimizer steps.
      tokens: number of training tokens, if all rows have the maximum length.
    """

    name: str
    videos: int = 0
    steps: int = 0
    tokens: int = 0


def plan_run(config: Any, makes_videos: bool = True) -> list[StagePlan]:
    """Plan `pav run` in a new work directory; what earlier runs have made is not subtracted.

    Args:
      makes_videos: False where all rewards read texts only.

    Raises:
      BadInput: a file of prompts cannot be used.
    """
    plans = _stage_plans(config)
    return plans if makes_videos else [dataclasses.replace(plan, videos=0) for plan in plans]


def _stage_plans(config: Any) -> list[StagePlan]:
    evolve = config.evolve
    training_prompts = read_prompt_set(evolve.prompts).prompts
    num_prompts = len(usable_prompts(training_prompts, evolve.max_prompts))
    plans = [
        StagePlan("evolve", num_prompts * (1 + evolve.rounds * evolve.num_rewrites)),
        _training_plan("sft", config.sft, num_prompts),
    ]
    prefer = config.prefer
    prompts = read_prompt_set(prefer.prompts).prompts
    for round in range(1, config.rounds + 1):
        num_prompts = len(round_prompts(prompts, prefer.max_prompts, round, config.rounds))
        samples = prefer.num_return_sequences
        plans.append(StagePlan(f"prefer_{round}", num_prompts * samples))
        num_pairs = num_prompts * math.comb(samples, 2)
        plans.append(_training_plan(f"dpo_{round}", config.dpo, num_pairs))
    return plans + _evaluation_plan(config, len(training_prompts))


def _training_plan(name: str, fields: Any, num_examples: int) -> StagePlan:
    steps, _ = count_steps(fields, num_examples)
    return StagePlan(name, 0, steps, steps * fields.batch_size * fields.max_length)


def _evaluation_plan(config: Any, num_training_prompts: int) -> list[StagePlan]:
    options = config.evaluate
    num_suffix_prompts = min(options.num_suffix_prompts, num_training_prompts)
    has_suffix = options.controls and num_suffix_prompts > 0
    num_systems = len({"original", *options.systems, *options.rewrite_files}) + has_suffix
    num_texts = 0
    for prompt_set in read_sets(options.prompts, options.max_prompts).values():
        num_texts += num_systems * len(prompt_set.prompts)
        if options.controls:
            num_texts += sum(oracle is not None for oracle in prompt_set.oracles)
    plans = [StagePlan("evaluate", num_texts * len(options.seeds))]
    if has_suffix:
        num_suffixes = len(suffixes())
        plans.insert(0, StagePlan("evaluate_suffixes", num_suffixes * num_suffix_prompts))
    return plans


def plan_line(plans: list[StagePlan]) -> str:
    """The plan as one line for the log."""
    parts = []
    for plan in plans:
        work = f"{plan.videos:,} videos"
        if plan.steps:
            work = f"{plan.steps:,} steps ({plan.tokens:,} tokens)"
        parts.append(f"{plan.name} {work}")
    videos = sum(plan.videos for plan in plans)
    steps = sum(plan.steps for plan in plans)
    tokens = sum(plan.tokens for plan in plans)
    return (
        f"plan, at most: {'; '.join(parts)}; in all {videos:,} videos, {steps:,} steps,"
        f" {tokens:,} tokens"
    )
