"""The training loop of the mini checkpoints: a step function, a batch per step number, a file to go
on from.

Batches are pure functions of the step, so a run that was killed goes on from its last save (every
five minutes) and ends with the same weights as one that was not.
"""

import concurrent.futures
import os
import time
from collections.abc import Callable
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

SAVE_SECONDS = 300
WORK = Path(
    os.environ.get("PAV_MINI_WORK", "runs/mini_checkpoints")
)  # unfinished states and caches


def use_every_core() -> None:
    """Makes each processor core a device, see `fit`. To be called before JAX has done anything."""
    jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)


def adamw(
    learning_rate: float, steps: int, warmup: int = 50, weight_decay: float = 0.01, b2: float = 0.99
):
    """AdamW with linear warm-up, cosine decay to a twentieth, and gradients clipped to norm 1."""
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, learning_rate, warmup, steps, learning_rate / 20
    )
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(schedule, b1=0.9, b2=b2, weight_decay=weight_decay),
    )


def muon(learning_rate: float, steps: int, warmup: int = 50, weight_decay: float = 0.01):
    """Muon (Jordan et al. 2024) for the kernels of stacked layers, each [L, in, out], and AdamW for
    the rest.

    Updates have AdamW's size (Liu et al. 2025, arXiv 2502.16982), so one learning rate serves both.
    These models need fewer steps of it than of AdamW. Schedule and clipping as in `adamw`.
    """
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, learning_rate, warmup, steps, learning_rate / 20
    )
    layer = optax.contrib.MuonDimensionNumbers(reduction_axis=1, output_axis=2)

    def stacked_kernels(params):
        def spec(path, x):
            names = [part.key for part in path]
            return (
                layer
                if names[-1] == "kernel" and x.ndim == 3 and not any("norm" in n for n in names)
                else None
            )

        return jax.tree_util.tree_map_with_path(spec, params)

    clip = optax.clip_by_global_norm(1.0)

    def clipped_and_apart(
        updates, state, params=None
    ):  # each device orthogonalises its share of the layers
        updates, state = clip.update(updates, state, params)
        apart = _mesh_shardings()[1]

        def share(x):
            return jax.lax.with_sharding_constraint(x, apart) if x.ndim == 3 and len(x) > 1 else x

        return jax.tree.map(share, updates), state

    return optax.chain(
        optax.GradientTransformation(clip.init, clipped_and_apart),
        optax.contrib.muon(
            schedule,
            weight_decay=weight_decay,
            adam_weight_decay=weight_decay,
            adam_b2=0.99,
            consistent_rms=0.2,
            muon_weight_dimension_numbers=stacked_kernels,
        ),
    )


def fit(
    name: str,
    step: Callable[[Any, Any, jax.Array], tuple[Any, dict]],
    state: Any,
    batch: Callable[[int], Any],
    steps: int,
    seed: int = 0,
    log_every: int = 25,
) -> Any:
    """Runs `state, metrics = step(state, batch(i), key_i)` for i in range(steps), resuming from
    `WORK/<name>.state`.

    `state` is a pytree of arrays; `step` is compiled here with the state donated. The next batch is
    made while the device works. Every device takes its share of the batch: on a processor a core
    that has its own rows is a quarter faster than all cores sharing each operation. Returns the
    last state.

    Raises:
      BadInput: the saved state is cut short, or of another training.
    """
    WORK.mkdir(parents=True, exist_ok=True)
    path = WORK / f"{name}.state"
    start = 0
    if path.exists():
        try:
            saved = serialization.from_bytes({"step": 0, "state": state}, path.read_bytes())
        except (ValueError, KeyError) as error:
            raise BadInput(
                f"{path}: not a whole state of this training ({error}); delete it to start anew"
            ) from error
        start, state = int(saved["step"]), jax.tree.map(jax.numpy.asarray, saved["state"])
        print(f"{name}: going on from step {start} of {steps}", flush=True)
    everywhere, apart = _mesh_shardings()
    state = jax.device_put(state, everywhere)
    compiled = jax.jit(step, donate_argnums=0, out_shardings=everywhere)
    key = jax.random.key(seed)
    sums, counted, saved_at, began = {}, 0, time.monotonic(), time.monotonic()
    columns = (
        TextColumn(name),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with concurrent.futures.ThreadPoolExecutor(1) as pool, Progress(*columns) as progress:
        task = progress.add_task(name, total=steps, completed=start)
        upcoming = pool.submit(batch, start) if start < steps else None
        for i in range(start, steps):
            data = jax.device_put(upcoming.result(), apart)
            upcoming = pool.submit(batch, i + 1) if i + 1 < steps else None
            state, metrics = compiled(state, data, jax.random.fold_in(key, i))
            metrics = {k: float(v) for k, v in metrics.items()}
            sums = {k: sums.get(k, 0.0) + v for k, v in metrics.items()}
            counted += 1
            progress.advance(task)
            if (i + 1) % log_every == 0 or i + 1 == steps:
                rate = (i + 1 - start) / (time.monotonic() - began)
                means = "  ".join(f"{k} {v / counted:.4f}" for k, v in sums.items())
                progress.console.print(
                    f"{name} step {i + 1}/{steps}  {means}  {rate:.2f} steps/s", highlight=False
                )
                sums, counted = {}, 0
            if time.monotonic() - saved_at > SAVE_SECONDS:
                _save(path, i + 1, state)
                saved_at = time.monotonic()
    _save(path, steps, state)
    return state


def descend(
    name: str,
    loss: Callable[[Any, Any], tuple[jax.Array, dict]],
    optimizer: optax.GradientTransformation,
    params: Any,
    batch: Callable[[int], Any],
    steps: int,
) -> Any:
    """`fit` by the gradient of `value, metrics = loss(params, batch(i))` alone. Returns the last
    parameters."""

    def step(state, data, key):
        gradient, metrics = jax.grad(loss, has_aux=True)(state["params"], data)
        updates, opt = optimizer.update(gradient, state["opt"], state["params"])
        return {"params": optax.apply_updates(state["params"], updates), "opt": opt}, metrics

    return fit(name, step, {"params": params, "opt": optimizer.init(params)}, batch, steps)[
        "params"
    ]


def data_parallel(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`function` compiled, each device taking its share of the argument's rows."""
    compiled, apart = jax.jit(function), _mesh_shardings()[1]
    return lambda rows: compiled(jax.device_put(rows, apart))


def _mesh_shardings() -> tuple[NamedSharding, NamedSharding]:
    """(the same everywhere, rows apart) on all devices."""
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    return NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))


def _save(path: Path, step: int, state: Any) -> None:
    part = path.with_suffix(".part")
    part.write_bytes(
        serialization.to_bytes({"step": step, "state": jax.tree.map(np.asarray, state)})
    )
    os.replace(part, path)


def ema(average: Any, params: Any, decay: float, step: jax.Array) -> Any:
    """Exponential moving average whose decay warms up, (1 + step) / (10 + step) at first."""
    d = jax.numpy.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda a, p: a * d + p * (1 - d), average, params)


def to_bf16(params: Any) -> Any:
    """Weights as they are shipped."""
    return jax.tree.map(lambda x: np.asarray(x, dtype=jax.numpy.bfloat16), params)
