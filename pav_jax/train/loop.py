"""What supervised and preference training share: the state, gradients of a batch in parts, and the
loop itself."""

import json
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax
import grain
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from pav_jax.checkpoints.orbax import Checkpoints
from pav_jax.errors import BadInput
from pav_jax.parallel import chips, sharding_rules

Batch = Mapping[str, Any]
Metrics = dict[str, jax.Array]
Report = Callable[[int, str], None]  # steps done, a short text
Prepare = Callable[
    ["TrainState", Batch], tuple[Batch, dict[str, float]]
]  # -> a step's batch, what was seen making it


@flax.struct.dataclass
class TrainState:
    """Variables are Flax collections, so a model is applied to `{**frozen, **trained}`.

    LoRA: frozen = {"params": ...}, trained = {"lora": ...}. Full tuning: frozen = {}, trained =
      {"params": ...}.
    """

    step: jax.Array  # int32 []
    frozen: Any
    trained: Any  # float32
    opt_state: Any
    rng: jax.Array  # the key of the run; a step folds its number in

    def apply_gradients(self, tx: optax.GradientTransformation, grads: Any) -> "TrainState":
        updates, opt_state = tx.update(grads, self.opt_state, self.trained)
        trained = optax.apply_updates(self.trained, updates)
        return self.replace(step=self.step + 1, trained=trained, opt_state=opt_state)


def gradients(
    loss_fn: Callable[[Any, Batch, jax.Array], tuple[jax.Array, Metrics]],
    trained: Any,
    batch: Batch,
    key: jax.Array,
    parts: int,
) -> tuple[Any, Metrics]:
    """Gradients and metrics of a batch, `parts` equal parts of it at a time.

    Args:
      loss_fn: (trained, rows, key) -> (loss, metrics), both divided by totals of the whole batch,
        so that parts add up.
    """
    grad_fn = jax.grad(loss_fn, has_aux=True)
    if parts == 1:
        return grad_fn(trained, batch, key)

    def split(
        rows,
    ):  # part i takes rows i, i + parts, ...: each part is spread over all devices, as the batch is
        return rows.reshape(rows.shape[0] // parts, parts, *rows.shape[1:]).swapaxes(0, 1)

    def add(total, part):
        index, rows = part
        return (
            jax.tree.map(jnp.add, total, grad_fn(trained, rows, jax.random.fold_in(key, index))),
            None,
        )

    split_batch = jax.tree.map(split, dict(batch))
    shapes = jax.eval_shape(grad_fn, trained, jax.tree.map(lambda rows: rows[0], split_batch), key)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    return jax.lax.scan(add, zeros, (jnp.arange(parts), split_batch))[0]


def state_shardings(
    state: TrainState,
    frozen_axes: Any,
    trained_axes: Any,
    tx: optax.GradientTransformation,
    mesh: Mesh,
) -> TrainState:
    """The state's tree of shardings: optimizer moments lie where the parameters they belong to
    lie."""
    whole = sharding_rules.replicated(mesh)
    trained = sharding_rules.shardings(trained_axes, state.trained, mesh)
    opt_state = optax.tree_map_params(
        tx,
        lambda _, sharding: sharding,
        state.opt_state,
        trained,
        transform_non_params=lambda _: whole,
    )
    frozen = sharding_rules.shardings(frozen_axes, state.frozen, mesh)
    return TrainState(step=whole, frozen=frozen, trained=trained, opt_state=opt_state, rng=whole)


def compile_step(
    train_step: Callable[[TrainState, Batch], tuple[TrainState, Metrics]], shardings: TrainState
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """jit with the state's shardings. What changes is donated; the frozen base is an argument that
    is only read."""
    live = shardings.replace(frozen=None)

    def step(live_state: TrainState, frozen: Any, batch: Batch):
        state, metrics = train_step(live_state.replace(frozen=frozen), batch)
        return state.replace(frozen=None), metrics

    compiled = jax.jit(
        step,
        in_shardings=(live, shardings.frozen, None),
        out_shardings=(live, None),
        donate_argnums=0,
    )

    def run(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        new, metrics = compiled(state.replace(frozen=None), state.frozen, batch)
        return new.replace(frozen=state.frozen), metrics

    # the same program from shapes alone, for those who compile without running
    run.trace = lambda state, batch: compiled.trace(state.replace(frozen=None), state.frozen, batch)
    return run


class _Log:
    """Metrics on their way from the device to `metrics.jsonl` (one line per step) and to the
    progress bar.

    After a restart the file continues behind the restored step, without duplicates.
    """

    def __init__(self, path: Path, done: int, report: Report, chips: int, peak: float | None):
        self._path, self._done, self._report = path, done, report
        self._chips, self._peak = chips, peak
        self._write("w", [line for line in self._lines() if line["step"] <= done])
        self._waiting: list[Metrics] = []
        self._tokens, self._operations, self._since, self._first = 0, 0.0, time.perf_counter(), True

    def add(self, metrics: Metrics, tokens: int, operations: float) -> None:
        """Takes a step's metrics; waits for the device only at the first, whose time is mostly
        compilation."""
        self._waiting.append(metrics)
        self._tokens, self._operations = self._tokens + tokens, self._operations + operations
        if self._first:
            jax.block_until_ready(metrics)
            self._tokens, self._operations, self._since = 0, 0.0, time.perf_counter()
        self._first = False

    def flush(self) -> None:
        """Waits for the device and writes what it gave.

        Raises:
          BadInput: the loss is not a finite number, or the disk is full.
        """
        values = jax.device_get(self._waiting)
        seconds = time.perf_counter() - self._since
        rate = self._tokens / seconds if self._tokens else None
        speed = {
            "tokens_per_second": rate,
            "tokens_per_second_per_chip": rate and rate / self._chips,
            "mfu": (
                self._operations / (seconds * self._chips * self._peak)
                if rate and self._peak
                else None
            ),
        }
        lines = [
            {"step": self._done + i} | {name: float(value) for name, value in row.items()} | speed
            for i, row in enumerate(values, 1)
        ]
        self._done += len(lines)
        for line in lines:
            if not math.isfinite(line["loss"]):
                raise BadInput(
                    f"{self._path}: the loss is {line['loss']} at step {line['step']}; lower"
                    " learning_rate, set max_grad_norm, or check the checkpoint the training starts"
                    " from"
                )
        self._write("a", lines)
        if lines:
            pace = f", {rate:,.0f} tokens/s" if rate else ""
            reward = f"reward {lines[-1]['reward']:.3f}, " if "reward" in lines[-1] else ""
            self._report(self._done, f"{reward}loss {lines[-1]['loss']:.4f}{pace}")
        self._waiting, self._tokens, self._operations, self._since = [], 0, 0.0, time.perf_counter()

    def _lines(self) -> list[dict]:
        lines = []
        for text in self._path.read_text().splitlines() if self._path.exists() else ():
            try:
                lines.append(json.loads(text))
            except (
                json.JSONDecodeError
            ):  # the line that was being written when the run ended; its step is redone
                break
        return lines

    def _write(self, mode: str, lines: list[dict]) -> None:
        if jax.process_index():
            return
        try:
            with self._path.open(mode) as file:
                file.writelines(json.dumps(line) + "\n" for line in lines)
        except OSError as error:
            raise BadInput(
                f"{self._path}: could not be written ({error.strerror}); make room and run the same"
                " command again"
            ) from error


class _StopOnSignal:
    """Notes SIGTERM instead of dying of it, so that the loop can save first."""

    def __enter__(self) -> "_StopOnSignal":
        self.asked = False
        self._main = (
            threading.current_thread() is threading.main_thread()
        )  # only there may handlers be set
        if self._main:
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def _note(self, *_) -> None:
        self.asked = True

    def __exit__(self, *_) -> None:
        if self._main:
            signal.signal(signal.SIGTERM, self._before)


def fit(
    state: TrainState,
    step_fn: Callable[[TrainState, Batch], tuple[TrainState, Metrics]],
    batches: grain.DatasetIterator,
    steps: int,
    folder: Path,
    mesh: Mesh,
    save_steps: int | None = 100,
    save_total_limit: int = 2,
    logging_steps: int = 10,
    report: Report = lambda done, text: None,
    prepare: Prepare = lambda state, batch: (batch, {}),
    operations: Callable[[Batch], float] = lambda batch: 0.0,
) -> TrainState:
    """Trains to `steps`, from the newest checkpoint in `folder/checkpoints` where there is one.

    Metrics stay on the device for `logging_steps` steps, so that steps follow each other without
    waiting for the host. Each line of `metrics.jsonl` has the step's own values and, of the steps
    logged with it, the tokens per second and the
    model FLOPs utilization: mfu = operations by formula / (seconds * chips * a chip's published
      peak in bfloat16), null
    where the peak is not known.

    Args:
      prepare: makes a step's batch of what `batches` gives and the state, where the examples come
        from the policy itself; the figures it returns join the step's metrics.
      operations: what a step on a batch takes over all processes, by formula.

    Raises:
      SystemExit: SIGTERM came (status 143); the state was saved and the same call continues from
        it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (
        Checkpoints(folder / "checkpoints", save_total_limit) as checkpoints,
        _StopOnSignal() as stop,
    ):
        done, saved = 0, -1
        if (found := checkpoints.restore(_saved_part(state), batches)) is not None:
            done = saved = found[0]
            state = state.replace(**found[1])
        report(done, "compiling")
        log = _Log(
            folder / "metrics.jsonl",
            done,
            report,
            mesh.size,
            chips.peak_flops(mesh.devices.flat[0].device_kind),
        )
        while done < steps:
            batch, seen = prepare(state, next(batches))
            tokens = int(batch.pop("tokens")) * jax.process_count()
            state, metrics = step_fn(state, sharding_rules.shard_batch(batch, mesh))
            done += 1
            log.add(metrics | seen, tokens, operations(batch))
            leave = stop.asked or checkpoints.preempted(done)
            due = leave or done == steps or (save_steps is not None and done % save_steps == 0)
            if due or done % logging_steps == 0:
                log.flush()
            if due and saved != done:
                checkpoints.save(done, _saved_part(state), batches)
                saved = done
            if leave and done < steps:
                break
    # leaving the block has waited until the last checkpoint is on disk
    if done < steps:
        print(
            f"stopped by a signal; saved at step {done} of {steps}, the same command continues",
            file=sys.stderr,
        )
        raise SystemExit(143)
    return state


def _saved_part(state: TrainState) -> dict:
    return {"step": state.step, "trained": state.trained, "opt_state": state.opt_state}
