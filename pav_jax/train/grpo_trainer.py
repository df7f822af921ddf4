"""Group relative policy optimization (Shao et al. 2024, arXiv 2402.03300, section 4).

The rewriter samples several rewrites of a prompt; those whose videos score above the mean of their
group become more likely.
"""

import os
import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from rich.progress import Progress

from pav_jax.candidates.constraints import minimum_scores
from pav_jax.candidates.prompt_sets import read_prompt_set
from pav_jax.candidates.prompt_text import usable_prompts
from pav_jax.checkpoints.hub import local_file
from pav_jax.errors import BadInput
from pav_jax.language.language_model import LanguageModel
from pav_jax.language.log_probs import log_probs
from pav_jax.parallel import sharding_rules
from pav_jax.storage.addresses import AnyPath, as_path
from pav_jax.train import state as training_state
from pav_jax.train.config import GRPOConfig, grpo_section
from pav_jax.train.export import save_booster
from pav_jax.train.grpo_loss import PolicyLoss, policy_loss
from pav_jax.train.log_probs import trained_log_probs
from pav_jax.train.loop import (
    Batch,
    Metrics,
    TrainStep,
    compile_step,
    fit,
    gradients,
    split_rows,
)
from pav_jax.train.loss_checks import check_policy_loss
from pav_jax.train.optimizer import make_optimizer, make_schedule
from pav_jax.train.rollouts import Rollouts, prompt_batches
from pav_jax.train.run_identity import is_finished, run_identity, write_run_identity
from pav_jax.train.state import (
    TrainState,
    base_model,
    count_steps,
    step_flops,
    training_model,
)
from pav_jax.train.step_report import StepReport
from pav_jax.video.no_videos import NoVideos


def loss_config(fields: GRPOConfig) -> PolicyLoss:
    """The loss that the fields describe.

    Raises:
      BadInput: the fields do not fit each other.
    """
    check_policy_loss(fields)
    if not fields.temperature > 0:
        raise BadInput(
            f"config.grpo.temperature={fields.temperature}: must be above 0, otherwise all"
            " completions of a group are the same",
            source="configuration",
            field="grpo.temperature",
        )
    return PolicyLoss(
        beta=fields.beta,
        epsilon=fields.epsilon,
        epsilon_high=fields.epsilon_high,
        loss_type=fields.loss_type,
        max_completion_length=fields.max_completion_length,
        use_bias_correction_kl=fields.use_bias_correction_kl,
    )


def fixed_log_probs(model: Any, variables: Any, batch: Batch, fields: GRPOConfig) -> jax.Array:
    """Log-probabilities [B, T] without gradient, in `gradient_accumulation_steps` parts."""
    B, T = batch["ids"].shape
    num_parts = fields.gradient_accumulation_steps

    def part_log_probs(part):
        ids, answer = part
        return log_probs(
            model,
            variables,
            ids,
            fields.loss_chunk_size,
            temperature=fields.temperature,
            mask_BxT=answer,
        )

    parts = (split_rows(batch["ids"], num_parts), split_rows(batch["answer"], num_parts))
    logp_NxPxT = jax.lax.map(part_log_probs, parts)
    return jax.lax.stop_gradient(logp_NxPxT.swapaxes(0, 1).reshape(B, T))


def make_train_step(
    model: Any, tx: optax.GradientTransformation, schedule: optax.Schedule, fields: GRPOConfig
) -> TrainStep:
    """Make the step, a pure function: `num_iterations` optimizer steps on one sampled batch.

    A batch is {"ids": int32 [B, T], "answer": bool [B, T], "advantage": float32 [B]}, sampled from
    the policy in the state. Metrics are averaged over the iterations. The reference is the frozen
    parameters, the model without adapter; without frozen parameters there is no KL term.
    """
    loss_fields = loss_config(fields)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        num_sequences = batch["ids"].shape[0]
        num_tokens = jnp.sum(batch["answer"]).astype(jnp.float32)
        policy = {**state.frozen, **state.trained}
        inputs = dict(batch)
        if fields.num_iterations > 1:  # with one iteration, the updated policy is the sampling one
            inputs["old"] = fixed_log_probs(model, policy, inputs, fields)
        if state.frozen:
            inputs["reference"] = fixed_log_probs(model, state.frozen, inputs, fields)

        def loss_fn(trained, rows, key):
            logp_BxT = trained_log_probs(
                model, state, trained, rows, fields, key, fields.temperature
            )
            return policy_loss(
                loss_fields,
                logp_BxT,
                rows["answer"],
                rows["advantage"],
                rows.get("old"),
                rows.get("reference"),
                num_sequences,
                num_tokens,
            )

        def update(live: TrainState, _):
            key = jax.random.fold_in(live.rng, live.step)
            num_parts = fields.gradient_accumulation_steps
            grads, metrics = gradients(loss_fn, live.trained, inputs, key, num_parts)
            metrics |= {"grad_norm": optax.global_norm(grads), "learning_rate": schedule(live.step)}
            return live.apply_gradients(tx, grads), metrics

        live, metrics = jax.lax.scan(
            update, state.replace(frozen=None), length=fields.num_iterations
        )
        return live.replace(frozen=state.frozen), jax.tree.map(jnp.mean, metrics)

    return train_step


def make_state(
    lm: LanguageModel, fields: GRPOConfig, tx: optax.GradientTransformation, seed: int
) -> tuple[TrainState, TrainState, Mesh]:
    """The state, its shardings and the mesh, see `train.state.make_state`.

    Full fine-tuning keeps the initial parameters as reference if there is a KL term.
    """
    state, shardings, mesh = training_state.make_state("grpo", lm, fields, tx, seed)
    if fields.full_finetuning and fields.beta:
        frozen = sharding_rules.device_put_global({"params": lm.params}, shardings.trained)
        state = state.replace(frozen=frozen)
        shardings = shardings.replace(frozen=shardings.trained)
    return state, shardings, mesh


def run(
    config: Any,
    lm: LanguageModel,
    prompts_path: str | os.PathLike,
    generator: Any,
    suite: Any,
    workdir: str | os.PathLike,
    progress: Progress | None = None,
) -> AnyPath:
    """Train `lm` by the rewards of its own rewrites, as `config.grpo` says.

    Args:
      config: the whole configuration; `grpo`, `seed` and `generator.batch_size` are read.
      prompts_path: a .txt file with one prompt a line, or a .jsonl file with `prompt`.
      generator, suite, progress: see `train_on_prompts`.

    Returns:
      The folder of the booster.
    """
    fields = grpo_section(config)
    path = local_file(prompts_path)
    texts = read_prompt_set(path, "grpo.prompts").without_images("grpo")
    prompts = usable_prompts(texts, fields.max_prompts)
    return train_on_prompts(
        fields,
        config.seed,
        lm,
        prompts,
        path,
        generator,
        suite,
        as_path(workdir),
        config.generator.batch_size,
        progress,
    )


def train_on_prompts(
    fields: GRPOConfig,
    seed: int,
    lm: LanguageModel,
    prompts: Sequence[str],
    prompts_path: str | os.PathLike,
    generator: Any,
    suite: Any,
    folder: AnyPath,
    video_batch_size: int,
    progress: Progress | None = None,
) -> AnyPath:
    """Train `lm` by the rewards of its own rewrites of `prompts`.

    Files, continuation and errors are those of `train.run.run`. The rewrites of step N and their
    scores are in `candidates/N` of `folder`. A restart samples the steps since its checkpoint
    again, but makes only videos that are missing.

    Args:
      lm: the model to start from, which is also the reference; it is not changed.
      prompts_path: the file of the prompts, whose contents identify the run.
      generator, suite: make and score the videos; without a generator, none are made.
      video_batch_size: videos per batch of the generator.

    Returns:
      The folder of the booster.

    Raises:
      BadInput: there is no generator, but a reward reads videos; or as `train.run.run`.
    """
    generator = _generator_for(suite, generator)
    lm = base_model(lm, fields)
    loss_config(fields)
    identity = run_identity("grpo", fields, seed, lm, prompts_path)
    identity |= _video_identity(fields, generator, suite)
    if is_finished(folder, identity):
        return folder / "booster"
    num_steps, steps_per_epoch = count_steps(fields, len(prompts) * fields.num_generations)
    iterations = fields.num_iterations
    schedule = make_schedule(fields, "grpo", num_steps * iterations, steps_per_epoch * iterations)
    tx = make_optimizer(fields, schedule)
    state, shardings, mesh = make_state(lm, fields, tx, seed)
    rollouts = Rollouts(
        fields, lm, mesh, prompts, generator, suite, folder, seed, video_batch_size, progress
    )
    _print_plan(rollouts, num_steps)
    train_step = make_train_step(training_model(lm, fields), tx, schedule, fields)
    num_reference_passes = 1 if state.frozen else 0
    num_policy_passes = 1 if iterations > 1 else 0
    write_run_identity(folder, identity)
    state = fit(
        state,
        compile_step(train_step, shardings),
        prompt_batches(len(prompts), fields.batch_size // fields.num_generations, seed),
        num_steps,
        folder,
        mesh,
        fields,
        StepReport("grpo", num_steps, progress, folder),
        rollouts,
        step_flops(lm, fields, state.trained, num_reference_passes + num_policy_passes, iterations),
    )
    return save_booster(lm, state, fields, folder)


def _video_identity(fields: GRPOConfig, generator: Any, suite: Any) -> dict[str, Any]:
    """The fields of the run's identity that describe how videos are made and scored."""
    return {
        "generator": generator.fingerprint,
        "weights": dict(fields.weights or suite.weights),
        "constraints": minimum_scores(fields.constraints, suite.constraints),
    }


def _generator_for(suite: Any, generator: Any) -> Any:
    """The generator, or one that makes no videos if there is none and no reward reads them."""
    if generator is not None:
        return generator
    if suite.reads_video:
        raise BadInput(
            f"generator: {', '.join(suite.video_scores)}: scores of videos; pass a generator, or"
            " only rewards that read texts",
            source="generator",
        )
    return NoVideos()


def _print_plan(rollouts: Rollouts, num_steps: int) -> None:
    """Print the number of prompts, truncated prompts, steps and videos per step."""
    num_truncated = rollouts.num_truncated_prompts
    note = f" ({num_truncated} truncated on the left)" if num_truncated else ""
    batch_size = rollouts.fields.batch_size
    work = f"{batch_size} videos" if rollouts.makes_videos else f"{batch_size} rewrites, 0 videos"
    print(
        f"grpo: {len(rollouts.prompts)} prompts{note}, {num_steps} steps of {work}", file=sys.stderr
    )
