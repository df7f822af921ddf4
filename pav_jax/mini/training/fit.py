"""The training loop of the mini checkpoints: a step function, a batch per step number, and a state
file to resume from.

Batches are pure functions of the step number, so that an interrupted run resumes from its last save
(every five minutes) and ends with the same weights as an uninterrupted one.
"""

import concurrent.futures
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import optax.contrib
from flax import serialization
from jax.sharding import NamedSharding, PartitionSpec
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from pav_jax.errors import BadInput

SAVE_INTERVAL_S = 300
# Where states of unfinished runs and cached data sets are kept.
WORK = Path(os.environ.get("PAV_MINI_WORK", "runs/mini_checkpoints"))

Batch = Any  # a pytree of arrays whose first axis is the batch
Metrics = Mapping[str, Any]  # scalars by name


def use_all_cores() -> None:
    """Makes each CPU core a JAX device. Call it before JAX is initialised."""
    jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)


def _schedule(learning_rate: float, steps: int, warmup: int) -> optax.Schedule:
    """Linear warm-up, then cosine decay to a twentieth."""
    return optax.warmup_cosine_decay_schedule(0.0, learning_rate, warmup, steps, learning_rate / 20)


def adamw(
    learning_rate: float, steps: int, warmup: int = 50, weight_decay: float = 0.01, b2: float = 0.99
) -> optax.GradientTransformation:
    """AdamW with linear warm-up, cosine decay and gradients clipped to norm 1."""
    schedule = _schedule(learning_rate, steps, warmup)
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(schedule, b1=0.9, b2=b2, weight_decay=weight_decay),
    )


def muon(
    learning_rate: float, steps: int, warmup: int = 50, weight_decay: float = 0.01
) -> optax.GradientTransformation:
    """Muon (Jordan et al. 2024) for the stacked kernels of layers, each [L, in, out], and AdamW for
    all other parameters.

    Updates have AdamW's size (Liu et al. 2025, arXiv 2502.16982), so that one learning rate serves
    both. These models need fewer steps with it than with AdamW. Schedule and clipping as in
    `adamw`.
    """
    clip = optax.clip_by_global_norm(1.0)

    def clip_and_shard(updates, state, params=None):
        # Each device orthogonalises its share of the layers.
        updates, state = clip.update(updates, state, params)
        sharded = _shardings()[1]

        def shard_layers(x):
            if x.ndim == 3 and len(x) > 1:
                return jax.lax.with_sharding_constraint(x, sharded)
            return x

        return jax.tree.map(shard_layers, updates), state

    return optax.chain(
        optax.GradientTransformation(clip.init, clip_and_shard),
        optax.contrib.muon(
            _schedule(learning_rate, steps, warmup),
            weight_decay=weight_decay,
            adam_weight_decay=weight_decay,
            adam_b2=0.99,
            consistent_rms=0.2,
            muon_weight_dimension_numbers=_muon_dimensions,
        ),
    )


def _muon_dimensions(params: Any) -> Any:
    """Muon's dimension numbers for stacked kernels, None for parameters that AdamW trains."""
    dimensions = optax.contrib.MuonDimensionNumbers(reduction_axis=1, output_axis=2)

    def of_param(path, x):
        names = [part.key for part in path]
        in_norm = any("norm" in name for name in names)
        return dimensions if names[-1] == "kernel" and x.ndim == 3 and not in_norm else None

    return jax.tree_util.tree_map_with_path(of_param, params)


def fit(
    name: str,
    step: Callable[[Any, Batch, jax.Array], tuple[Any, Metrics]],
    state: Any,
    make_batch: Callable[[int], Batch],
    steps: int,
    seed: int = 0,
    logging_steps: int = 25,
) -> Any:
    """Runs `state, metrics = step(state, make_batch(i), key_i)` for i in range(steps).

    Resumes from `WORK`/<name>.state. The next batch is made while the devices work. Every device
    takes its share of the batch: one core per share is a quarter faster on CPU than all cores
    working on each operation.

    Args:
      name: of the state file and in log lines.
      step: compiled here with the state donated.
      state: a pytree of arrays.
      make_batch: step number -> batch.
      seed: of the keys.
      logging_steps: steps between log lines.

    Returns:
      The last state.

    Raises:
      BadInput: the saved state is incomplete, or belongs to another training.
    """
    WORK.mkdir(parents=True, exist_ok=True)
    path = WORK / f"{name}.state"
    start, state = _restore(path, state)
    if start:
        print(f"{name}: resuming from step {start} of {steps}", flush=True)
    replicated, sharded = _shardings()
    state = jax.device_put(state, replicated)
    compiled = jax.jit(step, donate_argnums=0, out_shardings=replicated)
    key = jax.random.key(seed)
    saved_at = time.monotonic()
    with _progress(name) as progress:
        task = progress.add_task(name, total=steps, completed=start)
        log = _MetricLog(name, start, steps, progress)
        for i, batch in _prefetch(make_batch, start, steps):
            batch = jax.device_put(batch, sharded)
            state, metrics = compiled(state, batch, jax.random.fold_in(key, i))
            log.add(metrics)
            progress.advance(task)
            if (i + 1) % logging_steps == 0 or i + 1 == steps:
                log.write(i + 1)
            if time.monotonic() - saved_at > SAVE_INTERVAL_S:
                _save(path, i + 1, state)
                saved_at = time.monotonic()
    _save(path, steps, state)
    return state


def minimize(
    name: str,
    loss: Callable[[Any, Batch], tuple[Any, Metrics]],
    optimizer: optax.GradientTransformation,
    params: Any,
    make_batch: Callable[[int], Batch],
    steps: int,
) -> Any:
    """`fit` with gradient steps on `value, metrics = loss(params, batch)`.

    Returns:
      The last parameters.
    """
    return minimize_with_keys(
        name, lambda params, batch, _: loss(params, batch), optimizer, params, make_batch, steps
    )


def minimize_judge(
    name: str,
    loss: Callable[[Any, Batch], tuple[Any, Metrics]],
    params: Any,
    head_shapes: Mapping[str, tuple[int, ...]],
    make_batch: Callable[[int], Batch],
    learning_rate: float,
    steps: int,
) -> Any:
    """`minimize` for a judge that is trained with auxiliary linear heads, which are not kept.

    Args:
      loss: of {"judge": the judge's parameters, and the weights of each head}, and a batch.
      params: the judge's.
      head_shapes: name -> shape of the weights.

    Returns:
      The judge's last parameters, on the host.
    """
    keys = jax.random.split(jax.random.key(1), len(head_shapes))
    heads = {
        head: jax.random.normal(key, shape) * 0.05
        for key, (head, shape) in zip(keys, head_shapes.items(), strict=True)
    }
    optimizer = muon(learning_rate, steps, 50, 0.02)
    trained = minimize(name, loss, optimizer, {"judge": params} | heads, make_batch, steps)
    return jax.device_get(trained)["judge"]


def minimize_with_keys(
    name: str,
    loss: Callable[[Any, Batch, jax.Array], tuple[Any, Metrics]],
    optimizer: optax.GradientTransformation,
    params: Any,
    make_batch: Callable[[int], Batch],
    steps: int,
) -> Any:
    """As `minimize`, for a loss that draws random numbers: `loss(params, batch, key)`."""

    def step(state, batch, key):
        gradient, metrics = jax.grad(loss, has_aux=True)(state["params"], batch, key)
        updates, opt = optimizer.update(gradient, state["opt"], state["params"])
        return {"params": optax.apply_updates(state["params"], updates), "opt": opt}, metrics

    state = {"params": params, "opt": optimizer.init(params)}
    return fit(name, step, state, make_batch, steps)["params"]


def data_parallel(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Compiles `function` so that each device takes its share of the argument's first axis."""
    compiled = jax.jit(function)
    sharded = _shardings()[1]
    return lambda batch: compiled(jax.device_put(batch, sharded))


def _shardings() -> tuple[NamedSharding, NamedSharding]:
    """(replicated, first axis sharded) over all devices."""
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    return NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))


def _prefetch(
    make_batch: Callable[[int], Batch], start: int, steps: int
) -> Iterator[tuple[int, Batch]]:
    """Yields (step, batch), and makes the next batch meanwhile."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        upcoming = None
        for i in range(start, steps):
            batch = make_batch(i) if upcoming is None else upcoming.result()
            upcoming = pool.submit(make_batch, i + 1) if i + 1 < steps else None
            yield i, batch


class _MetricLog:
    """Averages metrics between log lines."""

    def __init__(self, name: str, start: int, steps: int, progress: Progress):
        self._name = name
        self._start = start
        self._steps = steps
        self._progress = progress
        self._began = time.monotonic()
        self._sums: dict[str, float] = {}
        self._count = 0

    def add(self, metrics: Metrics) -> None:
        self._sums = {k: self._sums.get(k, 0.0) + float(v) for k, v in metrics.items()}
        self._count += 1

    def write(self, step: int) -> None:
        """Writes the means since the last line."""
        rate = (step - self._start) / (time.monotonic() - self._began)
        means = "  ".join(f"{k} {v / self._count:.4f}" for k, v in self._sums.items())
        self._progress.console.print(
            f"{self._name} step {step}/{self._steps}  {means}  {rate:.2f} steps/s", highlight=False
        )
        self._sums = {}
        self._count = 0


def _progress(name: str) -> Progress:
    return Progress(
        TextColumn(name),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )


def _restore(path: Path, state: Any) -> tuple[int, Any]:
    """(number of finished steps, state), read from `path` if it exists."""
    if not path.exists():
        return 0, state
    try:
        saved = serialization.from_bytes({"step": 0, "state": state}, path.read_bytes())
    except (ValueError, KeyError) as error:
        raise BadInput(
            f"{path}: incomplete, or the state of another training ({error}); delete it to start"
            " from the beginning",
            source=str(path),
        ) from error
    return int(saved["step"]), jax.tree.map(jax.numpy.asarray, saved["state"])


def _save(path: Path, step: int, state: Any) -> None:
    partial = path.with_suffix(".part")
    arrays = jax.tree.map(np.asarray, state)
    partial.write_bytes(serialization.to_bytes({"step": step, "state": arrays}))
    os.replace(partial, path)


def update_ema(average: Any, params: Any, decay: float, step: jax.Array) -> Any:
    """Updates an exponential moving average whose decay warms up as (1 + step) / (10 + step)."""
    d = jax.numpy.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda a, p: a * d + p * (1 - d), average, params)


def to_bf16(params: Any) -> Any:
    """The parameters as numpy arrays in bfloat16, the type of the published checkpoints."""
    return jax.tree.map(lambda x: np.asarray(x, dtype=jax.numpy.bfloat16), params)


def round_to_bf16(params: Any) -> Any:
    """The parameters in float32 with bfloat16 precision, as users will load them: what is trained
    next has to see the same values."""
    return jax.tree.map(lambda x: x.astype(jax.numpy.float32), to_bf16(params))
