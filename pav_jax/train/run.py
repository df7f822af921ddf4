"""From a model and a file of examples to a booster: the run that SFT and DPO share."""

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import optax
from jax.sharding import Mesh
from rich.progress import Progress

from pav_jax.language.language_model import LanguageModel
from pav_jax.storage.addresses import AnyPath
from pav_jax.train.config import DPOConfig, SFTConfig
from pav_jax.train.data import ExampleData, read_data
from pav_jax.train.export import save_booster
from pav_jax.train.loop import TrainStep, compile_step, fit
from pav_jax.train.optimizer import make_optimizer, make_schedule
from pav_jax.train.run_identity import is_finished, run_identity, write_run_identity
from pav_jax.train.state import (
    TrainState,
    base_model,
    count_steps,
    make_state,
    step_flops,
    training_model,
)
from pav_jax.train.step_report import StepReport

# (model, optimizer, learning-rate schedule, fields) -> the step
MakeTrainStep = Callable[[Any, optax.GradientTransformation, optax.Schedule, Any], TrainStep]


@dataclasses.dataclass(frozen=True)
class ColumnInputs:
    """What an objective may compute additional columns from."""

    model: Any
    state: TrainState
    data: ExampleData
    mesh: Mesh
    folder: AnyPath


def no_columns(inputs: ColumnInputs, fields: Any) -> dict[str, np.ndarray]:
    """No additional columns."""
    del inputs, fields
    return {}


def no_forward_passes(fields: Any) -> int:
    """No forward passes without gradient."""
    del fields
    return 0


@dataclasses.dataclass(frozen=True)
class Objective:
    """What SFT and DPO differ in.

    Attributes:
      name: the section of the configuration, which also names the data and its answer fields.
      make_train_step: makes the step.
      extra_columns: computes arrays with one row per example before training, such as a
        reference's log-probabilities.
      num_forward_passes: passes without gradient in each step, for the FLOPs of a step.
    """

    name: str
    make_train_step: MakeTrainStep
    extra_columns: Callable[[ColumnInputs, Any], dict[str, np.ndarray]] = no_columns
    num_forward_passes: Callable[[Any], int] = no_forward_passes


def run(
    objective: Objective,
    fields: SFTConfig | DPOConfig,
    seed: int,
    lm: LanguageModel,
    data_path: str | os.PathLike,
    folder: AnyPath,
    progress: Progress | None = None,
) -> AnyPath:
    """Train `lm` on the examples in `data_path`.

    Writes checkpoints, `metrics.jsonl` and, when finished, `booster` (a Hugging Face folder) to
    `folder`. Continues where an earlier call stopped; returns at once if that finished.

    Args:
      lm: the model to start from; it is not changed.
      progress: display for a progress bar.

    Returns:
      The folder of the booster.

    Raises:
      BadInput: data, configuration or `folder` cannot be used.
      BudgetReached: a limit of hours or money is reached; the state is saved.
      SystemExit: SIGTERM arrived; the state is saved.
    """
    lm = base_model(lm, fields)
    identity = run_identity(objective.name, fields, seed, lm, data_path)
    if is_finished(folder, identity):
        return folder / "booster"
    data = read_data(objective.name, data_path, lm, fields, folder)
    num_steps, steps_per_epoch = count_steps(fields, len(data.source))
    schedule = make_schedule(fields, objective.name, num_steps, steps_per_epoch)
    tx = make_optimizer(fields, schedule)
    state, shardings, mesh = make_state(objective.name, lm, fields, tx, seed)
    model = training_model(lm, fields)
    columns = objective.extra_columns(ColumnInputs(model, state, data, mesh, folder), fields)
    train_step = objective.make_train_step(model, tx, schedule, fields)
    write_run_identity(folder, identity)
    state = fit(
        state,
        compile_step(train_step, shardings),
        data.batches(fields.batch_size, seed, columns),
        num_steps,
        folder,
        mesh,
        fields,
        StepReport(objective.name, num_steps, progress, folder),
        step_flops=step_flops(lm, fields, state.trained, objective.num_forward_passes(fields)),
    )
    return save_booster(lm, state, fields, folder)
