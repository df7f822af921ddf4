"""Low-rank adapters (Hu et al. 2021, arXiv 2106.09685): a tree shaped like the parameters, with
`{a, b}` for each adapted `kernel`.

The model itself adds `(lora_alpha / r) (x a) b`, see `models/decoder/model.py`. Only this tree is
trained; the base model is frozen.
"""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence, Set
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import Array

from pav_jax.errors import BadInput
from pav_jax.models.int8_kernel import is_int8

ALL_LINEAR = "all-linear"  # PEFT's name
# layers of Phi-3's checkpoints -> ours, which are rows of them
FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Settings of an adapter, with the names and meanings of PEFT's LoraConfig.

    Attributes:
      r: the rank.
      lora_alpha: the adapter is scaled by lora_alpha / r.
      lora_dropout: on the input of the adapter, during training.
      target_modules: names of dense layers ("q_proj"), or regular expressions for their whole path
        ("layers/attention/.*"), or "all-linear" for all of them. Names are those of Llama in every
        family: q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, also where a
        checkpoint fuses some of them (Phi-3).
    """

    r: int = 8
    lora_alpha: float = 16.0
    lora_dropout: float = 0.0
    target_modules: tuple[str, ...] = ("q_proj", "v_proj")

    def __post_init__(self):
        if self.r < 1:
            raise BadInput(f"lora.r={self.r}: the rank must be 1 or more", field="lora.r")
        if not 0.0 <= self.lora_dropout < 1.0:
            raise BadInput(
                f"lora.lora_dropout={self.lora_dropout}: must be at least 0 and below 1",
                field="lora.lora_dropout",
            )
        modules = self.target_modules
        modules = (modules,) if isinstance(modules, str) else tuple(modules)
        object.__setattr__(self, "target_modules", modules)

    @property
    def scale(self) -> float:
        """The factor of the adapter's output."""
        return self.lora_alpha / self.r


def with_lora(model: nn.Module, config: LoraConfig) -> nn.Module:
    """Return the model with scale and dropout of its "lora" collection set."""
    return model.clone(lora_scale=config.scale, lora_dropout=config.lora_dropout)


def target_paths(params: Mapping, config: LoraConfig) -> list[tuple[str, ...]]:
    """Return the paths of the dense layers that `config.target_modules` names, sorted.

    Raises:
      BadInput: a pattern matches no dense layer; the message lists the layers of the model.
    """
    arrays = _flatten(params)
    dense = sorted(path[:-1] for path in arrays if path[-1] == "kernel")
    others = {path[-1] for path in arrays if path[0] == "layers" and path[-1] != "kernel"}
    paths = set()
    for pattern in config.target_modules:
        paths.update(dense if pattern == ALL_LINEAR else _matches(pattern, dense, others))
    if not paths:
        raise BadInput(
            "lora.target_modules is empty; name at least one dense layer, such as q_proj",
            field="lora.target_modules",
        )
    return sorted(paths)


def _matches(
    pattern: str, dense: Sequence[tuple[str, ...]], others: Set[str]
) -> list[tuple[str, ...]]:
    """The dense layers that a pattern names.

    Args:
      others: names of arrays of a layer that are not dense layers.
    """
    try:
        paths = [
            path for path in dense if path[-1] == pattern or re.fullmatch(pattern, "/".join(path))
        ]
    except re.error as error:
        raise BadInput(
            f"lora.target_modules: {pattern!r} is not a regular expression ({error})",
            field="lora.target_modules",
        ) from error
    if not paths:
        names = ", ".join(sorted({path[-1] for path in dense}))
        problem = "matches no dense layer"
        if pattern in FUSED:
            problem = f"is {', '.join(FUSED[pattern])} here: name those instead"
        elif pattern in others:
            problem = "is one array of all experts of a layer, for which there is no LoRA"
        raise BadInput(
            f"lora.target_modules: {pattern!r} {problem}; this model has {names}",
            field="lora.target_modules",
        )
    return paths


def init_lora(
    params: Mapping, config: LoraConfig, key: jax.Array, dtype: Any = jnp.float32
) -> dict:
    """Return a new adapter: `a` uniform in +-1/sqrt(in), `b` zero.

    That is PEFT's initialisation, Kaiming-uniform with a = sqrt(5).

    Args:
      params: the model's parameters or their shapes; kernels are [in, out] or, stacked over layers,
        [L, in, out].
    """
    flat = _flatten(params)
    lora = {}
    for i, path in enumerate(target_paths(params, config)):
        *stack, inputs, outputs = flat[(*path, "kernel")].shape
        bound = 1 / math.sqrt(inputs)
        shape = (*stack, inputs, config.r)
        lora[(*path, "a")] = jax.random.uniform(
            jax.random.fold_in(key, i), shape, dtype, -bound, bound
        )
        lora[(*path, "b")] = jnp.zeros((*stack, config.r, outputs), dtype)
    return traverse_util.unflatten_dict(lora)


def merge(params: Mapping, lora: Mapping | None, config: LoraConfig | None) -> dict:
    """Return the parameters with `(lora_alpha / r) a b` added to each adapted kernel.

    Without an adapter, where `lora` and `config` are None, they are the same.

    The sum is computed in float32; the result has the kernel's dtype.

    Raises:
      BadInput: the parameters have 8-bit kernels.
    """
    if any(map(is_int8, jax.tree.leaves(params, is_leaf=is_int8))):
        raise BadInput(
            "8-bit parameters can neither be saved nor merged with an adapter; load the model with"
            " int8=False",
            field="int8",
        )
    if lora is None or config is None:
        return dict(params)
    flat = _flatten(params)
    adapters = _flatten(lora)
    for path in sorted({path[:-1] for path in adapters}):
        kernel = flat[(*path, "kernel")]
        a = jnp.asarray(adapters[(*path, "a")], jnp.float32)
        b = jnp.asarray(adapters[(*path, "b")], jnp.float32)
        delta = jnp.matmul(a, b, precision="highest")
        merged = jnp.asarray(kernel, jnp.float32) + config.scale * delta
        flat[(*path, "kernel")] = merged.astype(kernel.dtype)
    return traverse_util.unflatten_dict(flat)


def concatenate(adapters: Sequence[tuple[Mapping, LoraConfig]]) -> tuple[dict, LoraConfig]:
    """Return one adapter equal to the sum of `adapters`, by concatenation along the rank.

    A layer that an adapter does not adapt gets zeros. The scale of the result is 1: scales are
    multiplied into `b`.
    """
    flats = [(_flatten(tree), config) for tree, config in adapters]
    layers = sorted({path[:-1] for flat, _ in flats for path in flat})
    joined = {}
    for layer in layers:
        example = next(flat for flat, _ in flats if (*layer, "a") in flat)
        *a_shape, _ = example[(*layer, "a")].shape
        *stack, _, outputs = example[(*layer, "b")].shape
        a_parts = []
        b_parts = []
        for flat, config in flats:
            no_a = np.zeros((*a_shape, config.r), np.float32)
            no_b = np.zeros((*stack, config.r, outputs), np.float32)
            a_parts.append(np.asarray(flat.get((*layer, "a"), no_a), np.float32))
            b = np.asarray(flat.get((*layer, "b"), no_b), np.float32)
            b_parts.append(config.scale * b)
        joined[(*layer, "a")] = np.concatenate(a_parts, -1)
        joined[(*layer, "b")] = np.concatenate(b_parts, -2)
    rank = sum(config.r for _, config in flats)
    modules = tuple(sorted({layer[-1] for layer in layers}))
    config = LoraConfig(r=rank, lora_alpha=float(rank), target_modules=modules)
    return traverse_util.unflatten_dict(joined), config


def lora_axes(adapter: Mapping, param_axes: Mapping) -> dict:
    """Logical axes of an adapter.

    `a` has the input axis of its kernel, `b` the output axis; the rank is not sharded.
    """
    kernel_axes = _flatten(param_axes)
    axes = {}
    for path in _flatten(adapter):
        layers, inputs, outputs = kernel_axes[*path[:-1], "kernel"]
        axes[path] = (layers, inputs, None) if path[-1] == "a" else (layers, None, outputs)
    return traverse_util.unflatten_dict(axes)


def with_factors(variables: Mapping, factors: Array) -> dict:
    """Return variables of a model or of one layer in which each row of a batch has its own factors.

    Args:
      variables: "params" and "lora".
      factors: of the columns of `a`, [B, R]; [L, B, R] if the variables are stacked over layers.
    """
    flat = _flatten(variables["lora"])
    chosen = {(*path[:-1], "factors"): factors for path in flat}
    return {**variables, "lora": traverse_util.unflatten_dict(flat | chosen)}


def count(tree: Any) -> int:
    """Return the number of parameters in a tree."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def _flatten(tree: Mapping) -> dict[tuple[str, ...], Any]:
    return dict(traverse_util.flatten_dict(tree))
