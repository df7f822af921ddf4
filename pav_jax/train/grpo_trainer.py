"""Group relative policy optimisation (Shao et al. 2024, arXiv 2402.03300, section 4): of several
rewrites that the rewriter itself has just drawn for a prompt, those whose videos score above their
group's mean become more likely.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict
from rich.progress import Progress

from pav_jax.candidates.constraints import minimum_scores
from pav_jax.candidates.prompt_sets import read_prompt_set
from pav_jax.candidates.prompt_text import usable_prompts
from pav_jax.checkpoints.hub import local_file
from pav_jax.errors import BadInput
from pav_jax.language.language_model import LanguageModel
from pav_jax.parallel import sharding_rules
from pav_jax.train import stage
from pav_jax.train.config import grpo_section
from pav_jax.train.grpo_loss import PolicyLoss, policy_loss
from pav_jax.train.loop import Batch, Metrics, TrainState, compile_step, fit, gradients
from pav_jax.train.optimizer import make_optimizer, make_schedule
from pav_jax.train.rollouts import Rollouts, prompt_batches


def loss_config(fields: ConfigDict) -> PolicyLoss:
    """Raises BadInput where the fields do not fit each other."""
    if fields.batch_size % fields.num_generations:
        raise BadInput(
            f"grpo.num_generations={fields.num_generations} does not divide"
            f" batch_size={fields.batch_size}"
        )
    if not fields.temperature > 0:
        raise BadInput(
            f"grpo.temperature={fields.temperature}: must be above 0, or a group's completions are"
            " all one"
        )
    return PolicyLoss(
        beta=fields.beta,
        epsilon=fields.epsilon,
        epsilon_high=fields.epsilon_high,
        loss_type=fields.loss_type,
        max_completion_length=fields.max_completion_length,
        use_bias_correction_kl=fields.use_bias_correction_kl,
    )


def fixed_log_probs(model: Any, variables: Any, batch: Batch, fields: ConfigDict) -> jax.Array:
    """Log-probabilities [B, T] that no gradient flows to, `gradient_accumulation_steps` equal parts of the
    rows at a time."""
    B, T = batch["ids"].shape
    parts = fields.gradient_accumulation_steps
    split = lambda rows_BxT: rows_BxT.reshape(B // parts, parts, T).swapaxes(0, 1)  # noqa: E731  as `gradients` does
    logp_NxPxT = jax.lax.map(
        lambda part: stage.log_probs(
            model,
            variables,
            part[0],
            fields.loss_chunk_size,
            temperature=fields.temperature,
            wanted_BxT=part[1],
        ),
        (split(batch["ids"]), split(batch["answer"])),
    )
    return jax.lax.stop_gradient(logp_NxPxT.swapaxes(0, 1).reshape(B, T))


def make_train_step(
    model: Any, tx: optax.GradientTransformation, schedule: optax.Schedule, fields: ConfigDict
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """The step as a pure function: `num_iterations` optimizer steps on one sampled batch, their
    metrics averaged.

    A batch is {"ids": int32 [B, T], "answer": bool [B, T], "advantage": float32 [B]}, drawn from
    the policy in the state. The reference is the frozen parameters: the model without adapter;
    without them there is no divergence.
    """
    loss_fields, again = loss_config(fields), fields.num_iterations > 1

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        sequences, tokens = batch["ids"].shape[0], jnp.sum(batch["answer"]).astype(jnp.float32)
        policy, batch = {**state.frozen, **state.trained}, dict(batch)
        if again:  # otherwise the policy that sampled is the one that is updated
            batch["old"] = fixed_log_probs(model, policy, batch, fields)
        if state.frozen:
            batch["reference"] = fixed_log_probs(model, state.frozen, batch, fields)

        def loss_fn(trained, rows, key):
            dropout = key if fields.lora.lora_dropout and not fields.full_finetuning else None
            logp_BxT = stage.log_probs(
                model,
                {**state.frozen, **trained},
                rows["ids"],
                fields.loss_chunk_size,
                dropout,
                fields.temperature,
                wanted_BxT=rows["answer"],
                fixed_head=not fields.full_finetuning,
            )
            return policy_loss(
                loss_fields,
                logp_BxT,
                rows["answer"],
                rows["advantage"],
                rows.get("old"),
                rows.get("reference"),
                sequences,
                tokens,
            )

        def update(live, _):
            key = jax.random.fold_in(live.rng, live.step)
            grads, metrics = gradients(
                loss_fn, live.trained, batch, key, fields.gradient_accumulation_steps
            )
            metrics |= {"grad_norm": optax.global_norm(grads), "learning_rate": schedule(live.step)}
            return live.apply_gradients(tx, grads), metrics

        live, metrics = jax.lax.scan(
            update, state.replace(frozen=None), length=fields.num_iterations
        )
        return live.replace(frozen=state.frozen), jax.tree.map(jnp.mean, metrics)

    return train_step


def make_state(lm: LanguageModel, fields: ConfigDict, tx: optax.GradientTransformation, seed: int):
    """`stage.make_state`; full tuning keeps the parameters it began with where beta asks for a
    reference."""
    state, shardings, mesh = stage.make_state("grpo", lm, fields, tx, seed)
    if fields.full_finetuning and fields.beta:
        frozen = sharding_rules.device_put_global({"params": lm.params}, shardings.trained)
        state, shardings = state.replace(frozen=frozen), shardings.replace(frozen=shardings.trained)
    return state, shardings, mesh


def run(
    config: ConfigDict,
    lm: LanguageModel,
    prompts_path: str | os.PathLike,
    generator: Any,
    suite: Any,
    workdir: str | os.PathLike,
    progress: Progress | None = None,
) -> Path:
    """Trains `lm` by the rewards of its own rewrites of the prompts in `prompts_path`, as
    `config.grpo` says.

    Files, continuing and errors are those of `sft.run`; the rewrites of step N and their scores are
    under `candidates/N` of `workdir`. A restart draws the steps since its checkpoint again, and
    makes only videos that are not there.

    Args:
      config: the whole configuration; `grpo`, `seed` and `generator.batch` are read.
      lm: the `LanguageModel` to start from, which is also the reference; it is not changed.
      prompts_path: a .txt file with one prompt a line, or a .jsonl file with `prompt`.
      generator, suite: what makes and scores the videos, see `evolve.pool.Pool`.

    Returns:
      The folder of the booster.
    """
    folder, fields = Path(workdir), grpo_section(config)
    lm = stage.base(lm, fields)
    loss_config(fields)
    prompts_path = local_file(prompts_path)
    about = stage.identity("grpo", fields, config.seed, lm, prompts_path) | {
        "generator": generator.fingerprint,
        "weights": dict(fields.weights or suite.weights),
        "constraints": minimum_scores(fields.constraints, suite.constraints),
    }
    if stage.finished(folder, about):
        return folder / "booster"
    prompts = usable_prompts(read_prompt_set(prompts_path).prompts, fields.max_prompts or 0)
    steps, per_epoch = stage.count_steps(fields, len(prompts) * fields.num_generations)
    schedule = make_schedule(
        fields, "grpo", steps * fields.num_iterations, per_epoch * fields.num_iterations
    )
    tx = make_optimizer(fields, schedule)
    state, shardings, mesh = make_state(lm, fields, tx, config.seed)
    rollouts = Rollouts(config, fields, lm, mesh, prompts, generator, suite, folder, progress)
    cut = f", {rollouts.cut_prompts} cut from the left" if rollouts.cut_prompts else ""
    print(
        f"grpo: {len(prompts)} prompts{cut}, {steps} steps of {fields.batch_size} videos",
        file=sys.stderr,
    )
    step_fn = compile_step(
        make_train_step(stage.training_model(lm, fields), tx, schedule, fields), shardings
    )
    stage.claim(folder, about)
    stream = prompt_batches(len(prompts), fields.batch_size // fields.num_generations, config.seed)
    state = fit(
        state,
        step_fn,
        stream,
        steps,
        folder,
        mesh,
        fields.save_steps,
        fields.save_total_limit,
        fields.logging_steps,
        stage.reporter(folder.name, steps, progress),
        rollouts,
        stage.operations(
            lm,
            fields,
            state.trained,
            bool(state.frozen) + (fields.num_iterations > 1),
            fields.num_iterations,
        ),
    )
    return stage.save_booster(lm, state, fields, folder)
