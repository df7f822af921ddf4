"""The training state: which parameters are trained, and where its arrays are on the mesh."""

import math
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct, traverse_util
from jax.sharding import Mesh

from pav_jax.language import lora, quantization
from pav_jax.language.language_model import LanguageModel
from pav_jax.models.decoder import flops
from pav_jax.models.decoder.hf import weights
from pav_jax.models.weights import logical_axes
from pav_jax.parallel import sharding_rules
from pav_jax.parallel.mesh import check_batch, make_mesh
from pav_jax.train.config import TrainingConfig

# folded into the run's key for the adapter's initialization; step numbers are smaller
ADAPTER_KEY = 2**31 - 1


class TrainState(struct.PyTreeNode):
    """What a step reads and changes. The model is applied to `{**frozen, **trained}`.

    Attributes:
      step: int32 [], optimizer steps done.
      frozen: Flax collections that are only read. LoRA: {"params": ...}; full fine-tuning: {}.
      trained: float32 collections. LoRA: {"lora": ...}; full fine-tuning: {"params": ...}.
      opt_state: of the optimizer.
      rng: the key of the run; each step folds its number in.
    """

    step: jax.Array
    frozen: Any
    trained: Any
    opt_state: Any
    rng: Any

    def apply_gradients(self, tx: optax.GradientTransformation, grads: Any) -> "TrainState":
        """The state after one optimizer step."""
        updates, opt_state = tx.update(grads, self.opt_state, self.trained)
        trained = optax.apply_updates(self.trained, updates)
        return self.replace(step=self.step + 1, trained=trained, opt_state=opt_state)

    def saved_part(self) -> dict[str, Any]:
        """The arrays in checkpoints; the others follow from configuration and seed."""
        return {"step": self.step, "trained": self.trained, "opt_state": self.opt_state}


def training_model(lm: LanguageModel, fields: TrainingConfig) -> Any:
    """The Flax module with this training's adapter scale, dropout, rematerialization and mesh."""
    model = lora.with_lora(lm.model, lora_config(fields)).clone(
        remat=fields.remat,
        remat_policy=fields.remat_policy,
        unroll=fields.unroll_layers,
        flat_rows=lm.mesh is None or lm.mesh.shape["sequence"] == 1,
    )
    if lm.mesh is None:
        return model
    return model.clone(constrain=sharding_rules.ShardingConstraint(lm.mesh))


def base_model(lm: LanguageModel, fields: TrainingConfig) -> LanguageModel:
    """The model that training starts from: adapter merged, parameters quantized if configured."""
    if lm.lora is not None:
        assert lm.lora_config is not None
        lm = lm.with_params(lora.merge(lm.params, lm.lora, lm.lora_config))
    if fields.quantize:
        lm = lm.with_params(quantization.quantize(lm.params, fields.quantize))
    return lm


def lora_config(fields: TrainingConfig) -> lora.LoraConfig:
    """The adapter's configuration, checked."""
    return lora.LoraConfig(
        r=fields.lora.r,
        lora_alpha=fields.lora.lora_alpha,
        lora_dropout=fields.lora.lora_dropout,
        target_modules=tuple(fields.lora.target_modules),
    )


def dropout_key(fields: TrainingConfig, key: jax.Array) -> jax.Array | None:
    """The key for the adapter's dropout; None where there is no dropout."""
    return key if fields.lora.lora_dropout and not fields.full_finetuning else None


def count_steps(fields: TrainingConfig, num_examples: int) -> tuple[int, int]:
    """Return (optimizer steps of the run, steps per epoch).

    A step that the rest of an epoch does not fill takes its other examples from the next epoch.
    """
    steps_per_epoch = max(1, math.ceil(num_examples / fields.batch_size))
    if fields.max_steps is not None:
        return fields.max_steps, steps_per_epoch
    steps = math.ceil(fields.num_train_epochs * num_examples / fields.batch_size)
    return max(1, steps), steps_per_epoch


def make_state(
    name: str,
    lm: LanguageModel,
    fields: TrainingConfig,
    tx: optax.GradientTransformation,
    seed: int,
) -> tuple[TrainState, TrainState, Mesh]:
    """Create the state on the mesh, and print how many parameters are trained.

    Args:
      name: "sft", "dpo" or "grpo", for messages.

    Returns:
      The state, its shardings as a tree of the same structure, and the mesh.

    Raises:
      BadInput: target_modules match no layer, or the mesh does not divide the batch.
    """
    mesh = lm.mesh if lm.mesh is not None else make_mesh()
    check_batch(
        mesh,
        fields.batch_size // fields.gradient_accumulation_steps,
        f"config.{name}: batch_size / gradient_accumulation_steps",
    )
    key = jax.random.key(seed)
    param_axes = logical_axes(weights(lm.config))
    if fields.full_finetuning:
        frozen: dict[str, Any] = {}
        frozen_axes: dict[str, Any] = {}
        trained = {"params": jax.tree.map(lambda p: jnp.array(p, jnp.float32), lm.params)}
        trained_axes = {"params": param_axes}
        _check_and_print_count(name, lm, trained, lora.count(lm.params), "all parameters")
    else:
        frozen = {"params": lm.params}
        frozen_axes = {"params": quantization.array_axes(param_axes, lm.params)}
        adapter_key = jax.random.fold_in(key, ADAPTER_KEY)
        adapter = lora.init_lora(lm.params, lora_config(fields), adapter_key)
        trained = {"lora": adapter}
        trained_axes = {"lora": lora.lora_axes(adapter, param_axes)}
        size = _adapter_size(lm.params, adapter, fields.lora.r)
        target = f"LoRA r={fields.lora.r} on {', '.join(fields.lora.target_modules)}"
        _check_and_print_count(name, lm, trained, size, target)
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        frozen=frozen,
        trained=trained,
        opt_state=tx.init(trained),
        rng=key,
    )
    shardings = state_shardings(state, frozen_axes, trained_axes, tx, mesh)
    return sharding_rules.device_put_global(state, shardings), shardings, mesh


def _check_and_print_count(
    name: str, lm: LanguageModel, trained: Any, expected: int, target: str
) -> None:
    count = lora.count(trained)
    flat_params: dict[tuple, Any] = traverse_util.flatten_dict(lm.params)
    total = sum(p.size for p in flat_params.values())
    if count != expected:
        raise AssertionError(f"{count} parameters would be trained, {expected} expected")
    print(
        f"{name}: training {count:,} parameters ({target}) of a model of {total:,}", file=sys.stderr
    )


def state_shardings(
    state: TrainState,
    frozen_axes: Any,
    trained_axes: Any,
    tx: optax.GradientTransformation,
    mesh: Mesh,
) -> TrainState:
    """The state's tree of shardings; optimizer moments are sharded as their parameters are."""
    replicated = sharding_rules.replicated(mesh)
    trained = sharding_rules.shardings(trained_axes, state.trained, mesh)
    opt_state = optax.tree_map_params(
        tx,
        lambda _, sharding: sharding,
        state.opt_state,
        trained,
        transform_non_params=lambda _: replicated,
    )
    frozen = sharding_rules.shardings(frozen_axes, state.frozen, mesh)
    return state.replace(
        step=replicated, frozen=frozen, trained=trained, opt_state=opt_state, rng=replicated
    )


def _adapter_size(params: Mapping, adapter: Mapping, rank: int) -> int:
    """r (in + out) for every adapted kernel of every layer (Hu et al. 2021, section 4.2)."""
    flat_params: dict[tuple, Any] = traverse_util.flatten_dict(params)
    kernels = [
        flat_params[*path[:-1], "kernel"]
        for path in traverse_util.flatten_dict(adapter)
        if path[-1] == "a"
    ]
    return sum(k.shape[0] * rank * (k.shape[1] + k.shape[2]) for k in kernels)


def step_flops(
    lm: LanguageModel,
    fields: TrainingConfig,
    trained: Any,
    num_forward_passes: int = 0,
    num_updates: int = 1,
) -> Callable[[Mapping[str, Any]], float]:
    """Batch of this process -> FLOPs of its step over all processes, see `models.decoder.flops`.

    Args:
      num_forward_passes: additional passes without gradient, as a reference model takes.
      num_updates: optimizer steps per batch.
    """
    adapter_size = 0 if fields.full_finetuning else lora.count(trained)

    def batch_flops(batch: Mapping[str, Any]) -> float:
        *rows, T = batch["ids"].shape
        num_rows = math.prod(rows) * jax.process_count()
        forward = flops.forward(lm.config, num_rows, T, T, T, adapter_size)
        updates = num_updates * flops.training_step(forward, fields.full_finetuning)
        return updates + num_forward_passes * (forward.total - forward.adapters)

    return batch_flops
