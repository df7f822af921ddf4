"""Supervised fine-tuning: the rewriter learns to answer a user's prompt with its best rewrite."""

import os
from typing import Any

import jax
import jax.numpy as jnp
import optax
from rich.progress import Progress

from pav_jax.language.language_model import LanguageModel
from pav_jax.storage.addresses import AnyPath, as_path
from pav_jax.train import run as training
from pav_jax.train.config import SFTConfig, sft_section
from pav_jax.train.log_probs import trained_log_probs
from pav_jax.train.loop import Batch, Metrics, TrainStep, gradients
from pav_jax.train.losses import sft_loss
from pav_jax.train.state import TrainState


def make_train_step(
    model: Any, tx: optax.GradientTransformation, schedule: optax.Schedule, fields: SFTConfig
) -> TrainStep:
    """Make the step, a pure function.

    A batch is {"ids": int32 [B, T], "answer": bool [B, T]}. Packed rows also have "segments": int32
    [B, T], which numbers a row's examples from 1 and is 0 for padding.
    """

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(state.rng, state.step)
        answer_tokens = jnp.sum(batch["answer"]).astype(jnp.float32)
        segments_BxT = batch.get("segments")
        num_examples = batch["ids"].shape[0]
        if segments_BxT is not None:
            num_examples = jnp.sum(jnp.max(segments_BxT, axis=1))

        def loss_fn(trained, rows, key):
            logp_BxT = trained_log_probs(model, state, trained, rows, fields, key)
            loss = sft_loss(logp_BxT, rows["answer"], answer_tokens)
            return loss, {"loss": loss}

        num_parts = fields.gradient_accumulation_steps
        grads, metrics = gradients(loss_fn, state.trained, batch, key, num_parts)
        metrics |= {
            "lengths/answer": answer_tokens / num_examples,
            "grad_norm": optax.global_norm(grads),
            "learning_rate": schedule(state.step),
        }
        return state.apply_gradients(tx, grads), metrics

    return train_step


OBJECTIVE = training.Objective("sft", make_train_step)


def run(
    config: Any,
    lm: LanguageModel,
    pairs_path: str | os.PathLike,
    workdir: str | os.PathLike,
    progress: Progress | None = None,
) -> AnyPath:
    """Train `lm` on the pairs in `pairs_path` as `config.sft` says; see `train.run.run`.

    Args:
      config: the whole configuration; `config.sft` and `config.seed` are read.

    Returns:
      The folder of the booster.
    """
    fields = sft_section(config)
    return training.run(OBJECTIVE, fields, config.seed, lm, pairs_path, as_path(workdir), progress)
