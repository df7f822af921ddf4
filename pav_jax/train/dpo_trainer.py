"""Direct preference optimization (Rafailov et al. 2023).

Of two rewrites of a prompt, the one whose video scored higher becomes more likely, relative to the
model that training started from.
"""

import functools
import io
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from rich.progress import Progress

from pav_jax.language.language_model import LanguageModel
from pav_jax.language.log_probs import log_probs
from pav_jax.parallel import sharding_rules
from pav_jax.storage.addresses import AnyPath, as_path
from pav_jax.storage.files import write_atomic
from pav_jax.train import run as training
from pav_jax.train.config import DPOConfig, dpo_section
from pav_jax.train.data import ExampleData
from pav_jax.train.loop import Batch, Metrics, TrainStep, gradients
from pav_jax.train.losses import PreferenceLoss, answer_log_probs, preference_loss
from pav_jax.train.state import TrainState, dropout_key


def loss_config(fields: DPOConfig) -> PreferenceLoss:
    """The loss that the fields describe; BadInput where they do not fit each other."""
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
    chunk_size: int,
    dropout_key: jax.Array | None = None,
    head_is_frozen: bool = False,
) -> jax.Array:
    """Per-token log-probabilities [B, 2, T]; chunks without a token of an answer give zeros.

    The two rows of a pair are neighbours, so that a pair stays on one device.
    """
    B, _, T = ids_Bx2xT.shape
    logp = log_probs(
        model,
        variables,
        ids_Bx2xT.reshape(2 * B, T),
        chunk_size,
        dropout_key,
        mask_BxT=answer_Bx2xT.reshape(2 * B, T),
        head_is_frozen=head_is_frozen,
    )
    return logp.reshape(B, 2, T)


def make_train_step(
    model: Any, tx: optax.GradientTransformation, schedule: optax.Schedule, fields: DPOConfig
) -> TrainStep:
    """Make the step, a pure function.

    A batch is {"ids": int32 [B, 2, T], "answer": bool [B, 2, T]}, chosen before rejected, and
    "reference": float32 [B, 2] where that was precomputed. Otherwise the reference is the model
    without adapter.
    """
    loss_fields = loss_config(fields)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(state.rng, state.step)
        num_pairs = batch["ids"].shape[0]
        chosen_tokens = jnp.sum(batch["answer"][:, 0]).astype(jnp.float32)

        def loss_fn(trained, rows, key):
            ids = rows["ids"]
            answer = rows["answer"]
            logp_Bx2xT = pair_log_probs(
                model,
                {**state.frozen, **trained},
                ids,
                answer,
                fields.loss_chunk_size,
                dropout_key(fields, key),
                head_is_frozen=not fields.full_finetuning,
            )
            reference_Bx2 = rows.get("reference")
            if reference_Bx2 is None:
                base_Bx2xT = pair_log_probs(
                    model, state.frozen, ids, answer, fields.loss_chunk_size
                )
                reference_Bx2 = answer_log_probs(base_Bx2xT, answer, fields.ld_alpha)
            return preference_loss(
                loss_fields, logp_Bx2xT, answer, reference_Bx2, num_pairs, chosen_tokens
            )

        num_parts = fields.gradient_accumulation_steps
        grads, metrics = gradients(loss_fn, state.trained, batch, key, num_parts)
        metrics |= {"grad_norm": optax.global_norm(grads), "learning_rate": schedule(state.step)}
        return state.apply_gradients(tx, grads), metrics

    return train_step


def reference_is_precomputed(fields: DPOConfig) -> bool:
    """Whether the reference's log-probabilities are computed before training.

    Full fine-tuning has no adapter to switch off, so it always precomputes them.
    """
    return fields.precompute_ref_log_probs or fields.full_finetuning


def reference_log_probs(
    model: Any, params: Any, data: ExampleData, fields: DPOConfig, mesh: Mesh, path: AnyPath
) -> np.ndarray:
    """Log-probabilities of all answers under the reference, float32 [examples, 2].

    They are computed once and saved in `path`.
    """
    num_examples = len(data.source)
    if path.exists():
        saved_Nx2 = np.load(io.BytesIO(path.read_bytes()))
        if saved_Nx2.shape == (num_examples, 2):
            return saved_Nx2

    @functools.partial(jax.jit, out_shardings=sharding_rules.replicated(mesh))
    def batch_log_probs(params, ids, answer):
        logp_Bx2xT = pair_log_probs(model, {"params": params}, ids, answer, fields.loss_chunk_size)
        return answer_log_probs(logp_Bx2xT, answer, fields.ld_alpha)

    stream = data.batches(fields.batch_size, seed=None)
    results = []
    for _ in range(-(-num_examples // fields.batch_size)):
        arrays = {name: value for name, value in next(stream).items() if name != "tokens"}
        batch = sharding_rules.shard_batch(arrays, mesh)
        results.append(batch_log_probs(params, batch["ids"], batch["answer"]))
    # the last batch is filled up with the first examples
    logps_Nx2 = np.concatenate(jax.device_get(results))[:num_examples]
    if jax.process_index() == 0:
        content = io.BytesIO()
        np.save(content, logps_Nx2)
        write_atomic(path, content.getvalue())
    return logps_Nx2


def reference_column(inputs: training.ColumnInputs, fields: DPOConfig) -> dict[str, np.ndarray]:
    """Return the column "reference" if it is precomputed, else no column."""
    if not reference_is_precomputed(fields):
        return {}
    params = {**inputs.state.frozen, **inputs.state.trained}["params"]
    path = inputs.folder / "reference_logps.npy"
    logps_Nx2 = reference_log_probs(inputs.model, params, inputs.data, fields, inputs.mesh, path)
    return {"reference": logps_Nx2}


def num_reference_passes(fields: DPOConfig) -> int:
    """Forward passes of the reference in each step."""
    return 0 if reference_is_precomputed(fields) else 1


OBJECTIVE = training.Objective("dpo", make_train_step, reference_column, num_reference_passes)


def run(
    config: Any,
    lm: LanguageModel,
    preferences_path: str | os.PathLike,
    workdir: str | os.PathLike,
    progress: Progress | None = None,
) -> AnyPath:
    """Train `lm` on the preferences in `preferences_path` as `config.dpo` says.

    The reference is `lm` itself. See `train.run.run`.

    Args:
      config: the whole configuration; `config.dpo` and `config.seed` are read.

    Returns:
      The folder of the booster.
    """
    fields = dpo_section(config)
    loss_config(fields)
    folder = as_path(workdir)
    return training.run(OBJECTIVE, fields, config.seed, lm, preferences_path, folder, progress)
