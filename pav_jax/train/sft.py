"""Supervised fine-tuning: the rewriter learns to answer a user's prompt with the best rewrite that
was found for it."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict
from rich.progress import Progress

from pav_jax.language.language_model import LanguageModel
from pav_jax.train import stage
from pav_jax.train.config import sft_section
from pav_jax.train.loop import Batch, Metrics, TrainState, compile_step, fit, gradients
from pav_jax.train.losses import sft_loss
from pav_jax.train.optimizer import make_optimizer, make_schedule


def make_train_step(
    model: Any, tx: optax.GradientTransformation, schedule: optax.Schedule, fields: ConfigDict
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """The step as a pure function. A batch is {"ids": int32 [B, T], "answer": bool [B, T]}, where
    examples share rows with "segments": int32 [B, T], the numbers of a row's examples from 1, 0 for
    padding.
    """

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(state.rng, state.step)
        answer_tokens = jnp.sum(batch["answer"]).astype(jnp.float32)
        packed = batch.get("segments")
        examples = batch["ids"].shape[0] if packed is None else jnp.sum(jnp.max(packed, axis=1))

        def loss_fn(trained, rows, key):
            dropout = key if fields.lora.lora_dropout and not fields.full_finetuning else None
            logp_BxT = stage.log_probs(
                model,
                {**state.frozen, **trained},
                rows["ids"],
                fields.loss_chunk_size,
                dropout,
                segments_BxT=rows.get("segments"),
                wanted_BxT=rows["answer"],
                fixed_head=not fields.full_finetuning,
            )
            loss = sft_loss(logp_BxT, rows["answer"], answer_tokens)
            return loss, {"loss": loss}

        grads, metrics = gradients(
            loss_fn, state.trained, batch, key, fields.gradient_accumulation_steps
        )
        metrics |= {
            "lengths/answer": answer_tokens / examples,
            "grad_norm": optax.global_norm(grads),
            "learning_rate": schedule(state.step),
        }
        return state.apply_gradients(tx, grads), metrics

    return train_step


def run(
    config: ConfigDict,
    lm: LanguageModel,
    pairs_path: str | os.PathLike,
    workdir: str | os.PathLike,
    progress: Progress | None = None,
) -> Path:
    """Trains `lm` on the pairs in `pairs_path` as `config.sft` says.

    Writes checkpoints, `metrics.jsonl` and at last `booster` (a Hugging Face folder) to `workdir`;
    continues where an earlier call stopped, and returns at once where it finished.

    Args:
      config: the whole configuration; `config.sft` and `config.seed` are read.
      lm: the `LanguageModel` to start from; it is not changed.
      progress: where a bar is shown; none where None.

    Returns:
      The folder of the booster.

    Raises:
      BadInput: the data, the configuration or the work directory cannot be used.
      SystemExit: SIGTERM came; the state is saved.
    """
    folder, fields = Path(workdir), sft_section(config)
    lm = stage.base(lm, fields)
    about = stage.identity("sft", fields, config.seed, lm, pairs_path)
    if stage.finished(folder, about):
        return folder / "booster"
    data = stage.read_data("sft", pairs_path, lm, fields, folder)
    steps, per_epoch = stage.count_steps(fields, len(data.source))
    schedule = make_schedule(fields, "sft", steps, per_epoch)
    tx = make_optimizer(fields, schedule)
    state, shardings, mesh = stage.make_state("sft", lm, fields, tx, config.seed)
    step_fn = compile_step(
        make_train_step(stage.training_model(lm, fields), tx, schedule, fields), shardings
    )
    stage.claim(folder, about)
    stream = data.batches(fields.batch_size, config.seed)
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
        operations=stage.operations(lm, fields, state.trained),
    )
    return stage.save_booster(lm, state, fields, folder)
