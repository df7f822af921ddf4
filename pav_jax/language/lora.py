"""Low-rank adapters (Hu et al. 2021): a tree shaped like the parameters it sits beside, `{a, b}`
for each `kernel`.

The model itself adds `(lora_alpha / r) (x a) b`; see `models/llama/model.py`. Only this tree is trained,
the base is frozen.
"""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from pav_jax.errors import BadInput


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Field meanings are those of PEFT's LoraConfig.

    `target_modules`: names of dense layers ("q_proj"), or regular expressions for their whole path
    ("layers/attention/.*").
    """

    r: int = 8
    lora_alpha: float = 16.0
    lora_dropout: float = 0.0
    target_modules: tuple[str, ...] = ("q_proj", "v_proj")

    def __post_init__(self):
        if self.r < 1:
            raise BadInput(f"lora.r={self.r}: the rank is a positive whole number")
        if not 0.0 <= self.lora_dropout < 1.0:
            raise BadInput(
                f"lora.lora_dropout={self.lora_dropout}: a share from 0 up to, not including, 1"
            )
        object.__setattr__(self, "target_modules", tuple(self.target_modules))

    @property
    def scale(self) -> float:
        return self.lora_alpha / self.r


def with_lora(model: nn.Module, config: LoraConfig) -> nn.Module:
    """The same model, scaling and dropping out its "lora" collection as `config` says."""
    return model.clone(lora_scale=config.scale, lora_dropout=config.lora_dropout)


def target_paths(params: Mapping, config: LoraConfig) -> list[tuple[str, ...]]:
    """Paths of the dense layers that `config.target_modules` names, sorted.

    Raises:
      BadInput: a pattern matches no dense layer; the message lists the layers there are.
    """
    flat = traverse_util.flatten_dict(params)
    dense = sorted(path[:-1] for path in flat if path[-1] == "kernel")
    found = set()
    for pattern in config.target_modules:
        try:
            hits = [
                path
                for path in dense
                if path[-1] == pattern or re.fullmatch(pattern, "/".join(path))
            ]
        except re.error as error:
            raise BadInput(
                f"lora.target_modules: {pattern!r} is not a regular expression ({error})"
            ) from error
        if not hits:
            names = ", ".join(sorted({path[-1] for path in dense}))
            raise BadInput(
                f"lora.target_modules: {pattern!r} matches no dense layer; there are {names}"
            )
        found.update(hits)
    if not found:
        raise BadInput(
            "lora.target_modules is empty; name at least one dense layer, such as q_proj"
        )
    return sorted(found)


def init_lora(
    params: Mapping, config: LoraConfig, key: jax.Array, dtype: Any = jnp.float32
) -> dict:
    """A fresh adapter: `a` uniform in +-1/sqrt(in) (PEFT's Kaiming-uniform with a = sqrt(5)), `b`
    zero.

    Args:
      params: the model's parameters or their shapes; kernels are [in, out] or, stacked over layers,
        [L, in, out].
    """
    flat, lora = traverse_util.flatten_dict(params), {}
    for i, path in enumerate(target_paths(params, config)):
        *stack, inputs, outputs = flat[(*path, "kernel")].shape
        bound = 1 / math.sqrt(inputs)
        shape = (*stack, inputs, config.r)
        lora[(*path, "a")] = jax.random.uniform(
            jax.random.fold_in(key, i), shape, dtype, -bound, bound
        )
        lora[(*path, "b")] = jnp.zeros((*stack, config.r, outputs), dtype)
    return traverse_util.unflatten_dict(lora)


def merge(params: Mapping, lora: Mapping | None, config: LoraConfig) -> dict:
    """Parameters with `(lora_alpha / r) a b` added to each adapted kernel, computed in float32, in the
    kernel's dtype."""
    flat = dict(traverse_util.flatten_dict(params))
    adapters = traverse_util.flatten_dict(lora or {})
    for path in sorted({path[:-1] for path in adapters}):
        kernel = flat[(*path, "kernel")]
        delta = jnp.matmul(
            *(jnp.asarray(adapters[(*path, n)], jnp.float32) for n in "ab"), precision="highest"
        )
        merged = jnp.asarray(kernel, jnp.float32) + config.scale * delta
        flat[(*path, "kernel")] = merged.astype(kernel.dtype)
    return traverse_util.unflatten_dict(flat)


def concatenate(adapters: Sequence[tuple[Mapping, LoraConfig]]) -> tuple[dict, LoraConfig]:
    """One adapter that adds what `adapters`, merged one after another, add together: ranks side by
    side.

    A layer that one of them leaves alone gets zeros there. The scale of the result is 1: scales go
    into `b`.
    """
    flats = [(traverse_util.flatten_dict(tree), config) for tree, config in adapters]
    layers = sorted({path[:-1] for flat, _ in flats for path in flat})
    joined = {}
    for layer in layers:
        adapting = next(flat for flat, _ in flats if (*layer, "a") in flat)
        a_LxIxR, b_LxRxO = adapting[(*layer, "a")], adapting[(*layer, "b")]
        a_parts, b_parts = [], []
        for flat, config in flats:
            zeros = (
                np.zeros((*a_LxIxR.shape[:-1], config.r), np.float32),
                np.zeros((*b_LxRxO.shape[:-2], config.r, b_LxRxO.shape[-1]), np.float32),
            )
            a, b = (
                np.asarray(flat.get((*layer, n), zero), np.float32)
                for n, zero in zip("ab", zeros, strict=True)
            )
            a_parts.append(a)
            b_parts.append(config.scale * b)
        joined[(*layer, "a")], joined[(*layer, "b")] = (
            np.concatenate(a_parts, -1),
            np.concatenate(b_parts, -2),
        )
    rank = sum(config.r for _, config in flats)
    modules = tuple(sorted({layer[-1] for layer in layers}))
    return traverse_util.unflatten_dict(joined), LoraConfig(
        r=rank, lora_alpha=float(rank), target_modules=modules
    )


def count(tree: Any) -> int:
    """Number of parameters in a tree."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))
