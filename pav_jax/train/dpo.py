"""Direct preference optimisation (Rafailov et al. 2023): of two rewrites of a prompt, the one whose
video scored higher becomes more likely, measured against the model the training began with."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict
from rich.progress import Progress

from pav_jax.language.language_model import LanguageModel
from pav_jax.parallel import sharding_rules
from pav_jax.train import stage
from pav_jax.train.config import dpo_section
from pav_jax.train.loop import Batch, Metrics, TrainState, compile_step, fit, gradients
from pav_jax.train.losses import PreferenceLoss, answer_log_probs, preference_loss
from pav_jax.train.optimizer import make_optimizer, make_schedule


def loss_config(fields: ConfigDict) -> PreferenceLoss:
    """Raises BadInput where the fields do not fit each other."""
    return PreferenceLoss(
        beta=fields.beta,
        loss_type=fields.loss_type,
        loss_weights=fields.loss_weights,
        label_smoothing=fields.label_smoothing,
        ld_alpha=fields.ld_alpha,
    )


def pair_log_probs(
    model: Any,
    variables: Any,
    ids_Bx2xT: jax.Array,
    answer_Bx2xT: jax.Array,
    chunk: int,
    dropout: jax.Array | None = None,
    fixed_head: bool = False,
) -> jax.Array:
    """Per-token log-probabilities [B, 2, T]; the answers of a pair are neighbours, so a pair stays
    on one device. Where chunks hold no token of an answer they are zero."""
    B, _, T = ids_Bx2xT.shape
    flat = lambda array_Bx2xT: array_Bx2xT.reshape(2 * B, T)  # noqa: E731
    return stage.log_probs(
        model,
        variables,
        flat(ids_Bx2xT),
        chunk,
        dropout,
        wanted_BxT=flat(answer_Bx2xT),
        fixed_head=fixed_head,
    ).reshape(B, 2, T)


def make_train_step(
    model: Any, tx: optax.GradientTransformation, schedule: optax.Schedule, fields: ConfigDict
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """The step as a pure function. A batch is {"ids": int32 [B, 2, T], "answer": bool [B, 2, T]},
    chosen first; with "reference" (float32 [B, 2]) where that was computed before. Otherwise the
    reference is the model without adapter.
    """
    loss_fields = loss_config(fields)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(state.rng, state.step)
        pairs = batch["ids"].shape[0]
        chosen_tokens = jnp.sum(batch["answer"][:, 0]).astype(jnp.float32)

        def loss_fn(trained, rows, key):
            ids, answer = rows["ids"], rows["answer"]
            dropout = key if fields.lora.lora_dropout and not fields.full_finetuning else None
            logp_Bx2xT = pair_log_probs(
                model,
                {**state.frozen, **trained},
                ids,
                answer,
                fields.loss_chunk_size,
                dropout,
                fixed_head=not fields.full_finetuning,
            )
            if (reference_Bx2 := rows.get("reference")) is None:
                base_Bx2xT = pair_log_probs(
                    model, state.frozen, ids, answer, fields.loss_chunk_size
                )
                reference_Bx2 = answer_log_probs(base_Bx2xT, answer, fields.ld_alpha)
            return preference_loss(
                loss_fields, logp_Bx2xT, answer, reference_Bx2, pairs, chosen_tokens
            )

        grads, metrics = gradients(
            loss_fn, state.trained, batch, key, fields.gradient_accumulation_steps
        )
        metrics |= {"grad_norm": optax.global_norm(grads), "learning_rate": schedule(state.step)}
        return state.apply_gradients(tx, grads), metrics

    return train_step


def reference_log_probs(
    model: Any, params: Any, data: stage.Data, fields: ConfigDict, mesh: Mesh, path: Path
) -> np.ndarray:
    """The reference's log-probabilities of all answers, float32 [examples, 2], computed once and
    kept in `path`."""
    examples = len(data.source)
    if path.exists() and (kept := np.load(path)).shape == (examples, 2):
        return kept

    @functools.partial(jax.jit, out_shardings=sharding_rules.replicated(mesh))
    def one(params, ids, answer):
        logp_Bx2xT = pair_log_probs(model, {"params": params}, ids, answer, fields.loss_chunk_size)
        return answer_log_probs(logp_Bx2xT, answer, fields.ld_alpha)

    rows, stream = fields.batch_size, data.batches(fields.batch_size, seed=None)
    parts = []
    for _ in range(-(-examples // rows)):
        batch = sharding_rules.shard_batch(
            {k: v for k, v in next(stream).items() if k != "tokens"}, mesh
        )
        parts.append(one(params, batch["ids"], batch["answer"]))
    logps_Nx2 = np.concatenate(jax.device_get(parts))[
        :examples
    ]  # the last batch began the data again
    if jax.process_index() == 0:
        part = path.with_name(path.name + ".part")
        with part.open("wb") as file:
            np.save(file, logps_Nx2)
        os.replace(part, path)
    return logps_Nx2


def run(
    config: ConfigDict,
    lm: LanguageModel,
    preferences_path: str | os.PathLike,
    workdir: str | os.PathLike,
    progress: Progress | None = None,
) -> Path:
    """Trains `lm` on the preferences in `preferences_path` as `config.dpo` says; the reference is
    `lm` itself.

    Files, continuing, arguments and errors are those of `sft.run`, with `config.dpo`. Full tuning
    has no adapter to switch off, so it computes the reference's log-probabilities before, as
    `precompute_ref_log_probs` does.

    Returns:
      The folder of the booster.
    """
    folder, fields = Path(workdir), dpo_section(config)
    lm = stage.base(lm, fields)
    loss_config(fields)
    about = stage.identity("dpo", fields, config.seed, lm, preferences_path)
    if stage.finished(folder, about):
        return folder / "booster"
    data = stage.read_data("dpo", preferences_path, lm, fields, folder)
    steps, per_epoch = stage.count_steps(fields, len(data.source))
    schedule = make_schedule(fields, "dpo", steps, per_epoch)
    tx = make_optimizer(fields, schedule)
    state, shardings, mesh = stage.make_state("dpo", lm, fields, tx, config.seed)
    model = stage.training_model(lm, fields)
    columns = {}
    if fields.precompute_ref_log_probs or fields.full_finetuning:
        params = {**state.frozen, **state.trained}["params"]
        columns["reference"] = reference_log_probs(
            model, params, data, fields, mesh, folder / "reference_logps.npy"
        )
    step_fn = compile_step(make_train_step(model, tx, schedule, fields), shardings)
    stage.claim(folder, about)
    stream = data.batches(fields.batch_size, config.seed, columns)
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
        operations=stage.operations(lm, fields, state.trained, passes=0 if columns else 1),
    )
    return stage.save_booster(lm, state, fields, folder)
