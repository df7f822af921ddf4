"""The training loop: gradients of a batch in parts, the compiled step, and checkpoints."""

import signal
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import grain
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from pav_jax.checkpoints.orbax import Checkpoints
from pav_jax.errors import BudgetReached
from pav_jax.parallel import chips, processes, sharding_rules
from pav_jax.storage.addresses import AnyPath
from pav_jax.train.config import TrainingConfig
from pav_jax.train.metrics_log import MetricsLog
from pav_jax.train.state import TrainState
from pav_jax.train.step_report import StepReport

Batch = Mapping[str, Any]
Metrics = dict[str, Any]  # scalars on the device
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
LossFn = Callable[[Any, Batch, jax.Array], tuple[jax.Array, Metrics]]
# (state, what the batch iterator gave) -> (the step's batch, additional metrics)
PrepareBatch = Callable[[TrainState, Batch], tuple[dict[str, Any], dict[str, float]]]

EXIT_SIGTERM = 128 + signal.SIGTERM  # the exit status that shells give for this signal


def gradients(
    loss_fn: LossFn, trained: Any, batch: Batch, key: jax.Array, num_parts: int
) -> tuple[Any, Metrics]:
    """Gradients and metrics of a batch, computed in `num_parts` equal parts one after another.

    Args:
      loss_fn: (trained, rows, key) -> (loss, metrics), both divided by totals of the whole batch,
        so that the parts add up.
    """
    grad_fn = jax.grad(loss_fn, has_aux=True)
    if num_parts == 1:
        return grad_fn(trained, batch, key)

    def add_part(total, part):
        index, rows = part
        part_key = jax.random.fold_in(key, index)
        return jax.tree.map(jnp.add, total, grad_fn(trained, rows, part_key)), None

    parts = jax.tree.map(lambda rows: split_rows(rows, num_parts), dict(batch))
    first_part = jax.tree.map(lambda rows: rows[0], parts)
    shapes = jax.eval_shape(grad_fn, trained, first_part, key)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    return jax.lax.scan(add_part, zeros, (jnp.arange(num_parts), parts))[0]


def split_rows(rows: jax.Array, num_parts: int) -> jax.Array:
    """[B, ...] -> [num_parts, B / num_parts, ...].

    Part i takes rows i, i + num_parts, ..., so that each part is spread over all devices, as the
    batch is.
    """
    return rows.reshape(rows.shape[0] // num_parts, num_parts, *rows.shape[1:]).swapaxes(0, 1)


class CompiledStep:
    """A jitted train step. The parts of the state that change are donated.

    The frozen parameters are an argument that is only read.
    """

    def __init__(self, train_step: TrainStep, shardings: TrainState):
        changing = shardings.replace(frozen=None)

        def step(state: TrainState, frozen: Any, batch: Batch):
            state, metrics = train_step(state.replace(frozen=frozen), batch)
            return state.replace(frozen=None), metrics

        self._compiled = jax.jit(
            step,
            in_shardings=(changing, shardings.frozen, None),
            out_shardings=(changing, None),
            donate_argnums=0,
        )

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        new, metrics = self._compiled(state.replace(frozen=None), state.frozen, batch)
        return new.replace(frozen=state.frozen), metrics

    def trace(self, state: TrainState, batch: Batch) -> jax.stages.Traced:
        """Trace the program from shapes alone, to compile it without running it."""
        return self._compiled.trace(state.replace(frozen=None), state.frozen, batch)


def compile_step(train_step: TrainStep, shardings: TrainState) -> CompiledStep:
    """Jit a train step with the shardings of its state."""
    return CompiledStep(train_step, shardings)


class _StopOnSigterm:
    """Notes SIGTERM instead of ending the process, so that the loop can save first.

    Does nothing in one of several processes, which must all stop after the same step: there
    `preemption_notices` and `Checkpoints.preempted` are used.
    """

    def __init__(self):
        self.received = False

    def __enter__(self) -> "_StopOnSigterm":
        # Python allows handlers in the main thread only
        in_main_thread = threading.current_thread() is threading.main_thread()
        self._is_installed = in_main_thread and jax.process_count() == 1
        if self._is_installed:
            self._previous_handler = signal.signal(signal.SIGTERM, self._receive)
        return self

    def _receive(self, *_) -> None:
        self.received = True

    def __exit__(self, *_) -> None:
        if self._is_installed:
            signal.signal(signal.SIGTERM, self._previous_handler)


def _use_iterator_batch(state: TrainState, batch: Batch) -> tuple[dict[str, Any], dict[str, float]]:
    del state
    return dict(batch), {}


def _unknown_flops(batch: Batch) -> float:
    del batch
    return 0.0


def fit(
    state: TrainState,
    step_fn: TrainStep,
    batches: grain.DatasetIterator,
    num_steps: int,
    folder: AnyPath,
    mesh: Mesh,
    fields: TrainingConfig,
    report: StepReport,
    prepare_batch: PrepareBatch = _use_iterator_batch,
    step_flops: Callable[[Batch], float] = _unknown_flops,
) -> TrainState:
    """Train to `num_steps`, from the newest checkpoint in `folder/checkpoints` if there is one.

    Metrics stay on the device for `logging_steps` steps, so that steps follow each other without
    waiting for the host; see `MetricsLog` for what is written.

    Args:
      report: receives the steps done and, for TensorBoard, the metrics.
      prepare_batch: makes a step's batch from the state and what `batches` gives, where examples
        are sampled from the policy; the figures it returns join the step's metrics.
      step_flops: FLOPs of a step on a batch over all processes, by formula.

    Raises:
      BudgetReached: a limit of hours or money is reached; the state is saved.
      SystemExit: SIGTERM arrived (status 143); the state is saved and the same call continues.
    """
    folder.mkdir(parents=True, exist_ok=True)
    checkpoints = Checkpoints(folder / "checkpoints", fields.save_total_limit)
    with checkpoints, processes.preemption_notices(), _StopOnSigterm() as sigterm:
        state, done, saved = _restore(checkpoints, state, batches)
        report(done, "compiling")
        peak_flops = chips.peak_flops(mesh.devices.flat[0].device_kind)
        log = MetricsLog(folder / "metrics.jsonl", done, report, mesh.size, peak_flops)
        stopping = done < num_steps and report.must_stop()
        while done < num_steps and not stopping:
            try:
                batch, batch_metrics = _prepare_next(prepare_batch, state, batches)
            except BudgetReached:
                log.flush()
                if saved != done:
                    checkpoints.save(done, state.saved_part(), batches)
                raise
            num_tokens = int(batch.pop("tokens")) * jax.process_count()
            state, metrics = step_fn(state, sharding_rules.shard_batch(batch, mesh))
            done += 1
            log.add(metrics | batch_metrics, num_tokens, step_flops(batch))
            stopping = sigterm.received or checkpoints.preempted(done) or report.must_stop()
            should_save = stopping or done == num_steps or is_save_step(done, fields.save_steps)
            if should_save or done % fields.logging_steps == 0:
                log.flush(should_save)
            if should_save and saved != done:
                checkpoints.save(done, state.saved_part(), batches)
                saved = done
        log.close()
    # leaving the block has waited until the last checkpoint is on disk
    if done < num_steps:
        report.raise_if_stopped(done, num_steps)
        _exit_after_sigterm(done, num_steps)
    return state


def _restore(
    checkpoints: Checkpoints, state: TrainState, batches: grain.DatasetIterator
) -> tuple[TrainState, int, int]:
    """Return the newest saved state, its step, and the step that needs no saving."""
    checkpoint = checkpoints.restore(state.saved_part(), batches)
    if checkpoint is None:
        return state, 0, 0
    done, arrays = checkpoint
    return state.replace(**arrays), done, done


def _prepare_next(
    prepare_batch: PrepareBatch, state: TrainState, batches: grain.DatasetIterator
) -> tuple[dict[str, Any], dict[str, float]]:
    """Prepare the next batch; where a limit forbids it, `batches` stays before it."""
    position = batches.get_state()
    try:
        return prepare_batch(state, next(batches))
    except BudgetReached:
        batches.set_state(position)
        raise


def _exit_after_sigterm(done: int, num_steps: int) -> NoReturn:
    """Say at which step training stopped, and exit with status 143."""
    print(
        f"stopped by SIGTERM; saved at step {done} of {num_steps}; run the same command again"
        " to continue",
        file=sys.stderr,
    )
    raise SystemExit(EXIT_SIGTERM)


def is_save_step(step: int, save_steps: int | None) -> bool:
    """Whether a checkpoint is due after `step` steps."""
    return save_steps is not None and step % save_steps == 0
