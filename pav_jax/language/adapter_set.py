"""Named LoRA adapters of one base model, of which each row of a batch uses its own or none.

The adapters are side by side along the rank, and each row has factors for the columns, 0 for those
of other adapters. So a batch of rows with different adapters runs through the base model once.

One adapter may be merged into the parameters. Rows that use it then need no adapters at all, and
have batches of their own: the same row may not run through two programs. The factors of all other
rows take the merged adapter away again.

Letters: B rows, L layers, R columns of all adapters.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pav_jax.errors import BadInput
from pav_jax.language import chat
from pav_jax.language.lora import LoraConfig, concatenate, lora_axes, merge, with_factors
from pav_jax.models.decoder import DecoderConfig, hf
from pav_jax.models.weights import logical_axes
from pav_jax.parallel import sharding_rules

BASE = "__base__"  # PEFT's name for a row that uses no adapter
# The number of columns is a multiple of this, so that an adapter may take the place of another of
# about the same rank without compiling again.
RANK_MULTIPLE = 16


Named = Mapping[str, tuple[dict, LoraConfig]]  # name -> tree in host memory, settings


@dataclasses.dataclass(frozen=True, eq=False)
class AdapterSet:
    """Named adapters; `add` and `remove` return other sets.

    Attributes:
      adapters: each by itself.
      lora: the adapters side by side, on the devices; None if there are none. A layer that one of
        them does not adapt has zeros in its columns.
      mesh: the devices, or None for one.
      templates: the chat templates of those that have their own.
      limits: the most tokens of an answer, of those that have their own number.
      merged: the name of the one that is in the parameters of the model; None for none.
    """

    adapters: Named = dataclasses.field(default_factory=dict)
    lora: dict | None = None
    mesh: jax.sharding.Mesh | None = None
    templates: Mapping[str, str] = dataclasses.field(default_factory=dict)
    limits: Mapping[str, int] = dataclasses.field(default_factory=dict)
    merged: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The names, in the order of loading."""
        return tuple(self.adapters)

    # ------------------------------------------------------------------------------------- changing

    def add(
        self,
        name: str,
        adapter: tuple[dict, LoraConfig],
        config: DecoderConfig,
        dtype: Any,
        mesh: jax.sharding.Mesh | None,
        template: str | None = None,
        limit: int | None = None,
    ) -> "AdapterSet":
        """Return the set with one more adapter.

        Args:
          name: a new one.
          config, dtype, mesh: of the base model.
          template: the chat template of its prompts; None: the base model's.
          limit: the most tokens of its answers; None: that of the settings of a call.

        Raises:
          BadInput: the adapter overflows in `dtype`.
        """
        tree = jax.tree.map(np.asarray, adapter[0])
        for leaf in jax.tree.leaves(tree):
            if not np.isfinite(leaf.astype(dtype)).all():  # in `b` it would reach the other rows
                raise BadInput(
                    f"adapter {name!r} is not finite as {jnp.dtype(dtype).name}; load the model"
                    " with another dtype",
                    field="adapter_name",
                )
        templates = dict(self.templates)
        if template is not None:
            templates[name] = template
        limits = self.limits if limit is None else {**self.limits, name: limit}
        joined = _join({**self.adapters, name: (tree, adapter[1])}, config, mesh)
        return dataclasses.replace(joined, templates=templates, limits=limits, merged=self.merged)

    def remove(self, name: str, config: DecoderConfig, params: dict) -> "tuple[dict, AdapterSet]":
        """Return parameters and set without an adapter, up to rounding if it was merged.

        Raises:
          BadInput: there is none of this name.
        """
        self._check_loaded(name, "adapter_name")
        merged = self.merged
        if self.is_merged(name):
            lora, settings = self.adapters[name]
            opposite = dataclasses.replace(settings, lora_alpha=-settings.lora_alpha)
            params, merged = merge(params, lora, opposite), None
        rest = {other: value for other, value in self.adapters.items() if other != name}
        if not rest:
            return params, AdapterSet()
        templates = {other: text for other, text in self.templates.items() if other != name}
        limits = {other: limit for other, limit in self.limits.items() if other != name}
        joined = _join(rest, config, self.mesh)
        return params, dataclasses.replace(
            joined, templates=templates, limits=limits, merged=merged
        )

    def merge(self, name: str, params: dict) -> "tuple[dict, AdapterSet]":
        """Return parameters with an adapter merged into them, and the set that says so.

        Raises:
          BadInput: there is none of this name, or one is merged already.
        """
        self._check_loaded(name, "adapter_name")
        if self.merged is not None:
            raise BadInput(
                f"adapter_name={name!r}: {self.merged!r} is merged; delete_adapter it first",
                field="adapter_name",
            )
        merged = merge(params, *self.adapters[name])
        return merged, dataclasses.replace(self, merged=name)

    def check_new_name(self, name: str) -> None:
        """Raise BadInput if no adapter can be added under this name."""
        if name in ("", BASE):
            problem = f"an adapter cannot have this name; {BASE!r} is the base model"
        elif name in self.adapters:
            problem = "there is one of this name; delete_adapter it first, or choose another name"
        else:
            return
        raise BadInput(f"adapter_name={name!r}: {problem}", field="adapter_name")

    def is_merged(self, name: str | None) -> bool:
        """Return whether rows that use this adapter need nothing but the parameters."""
        return self.merged is not None and name == self.merged

    def _check_loaded(self, name: str, field: str) -> None:
        if name not in self.adapters:
            loaded = f"loaded: {', '.join(self.names)}" if self.names else "load_adapter loads one"
            raise BadInput(f"{field}: there is no adapter {name!r}; {loaded}", field=field)

    # ---------------------------------------------------------------------------------------- using

    def check_rows(self, names: str | Sequence[str] | None, count: int) -> list[str | None]:
        """Return the adapter of each row, None for "__base__".

        Args:
          names: one for all rows, or one each; None: the merged one, or else "__base__".

        Raises:
          BadInput: there are more or fewer names than rows, or one is unknown.
        """
        names = self.merged or BASE if names is None else names
        names = [names] * count if isinstance(names, str) else list(names)
        if len(names) != count:
            raise BadInput(
                f"adapter_names: {len(names)} for {count} prompts; give one for each, {BASE!r} for"
                " none",
                field="adapter_names",
            )
        for name in names:
            if name != BASE:
                self._check_loaded(name, "adapter_names")
        return [None if name == BASE else name for name in names]

    def encode(
        self, tokenizer: Any, prompts: Sequence[str | chat.Chat], names: Sequence[str | None]
    ) -> list[list[int]]:
        """Return the token ids of each prompt for its adapter; see `chat.encode`.

        Args:
          tokenizer: the base model's.
          names: None for a prompt without an adapter.
        """
        tokenizers: dict[str | None, Any] = {}
        for name in set(names):
            tokenizers[name] = tokenizer
            if name is not None and name in self.templates:
                tokenizers[name] = chat.with_template(tokenizer, self.templates[name])
        return [chat.encode(tokenizers[n], p) for n, p in zip(names, prompts, strict=True)]

    def variables(self, params: dict) -> dict:
        """Return the variables of a model with all adapters, stacked over layers."""
        return {"params": params} if self.lora is None else {"params": params, "lora": self.lora}

    def variables_of_rows(self, variables: dict, names: Sequence[str | None]) -> dict:
        """Return the variables for a batch whose rows use these adapters.

        Args:
          variables: at least "params", stacked over layers.
          names: None for a row without an adapter.
        """
        if self.lora is None:
            return variables
        if all(map(self.is_merged, names)):
            return {"params": variables["params"]}
        factors_BxR = self._factors(names)
        num_layers = len(jax.tree.leaves(self.lora)[0])
        stacked = np.broadcast_to(factors_BxR, (num_layers, *factors_BxR.shape))
        variables = self.variables(variables["params"])
        return with_factors(variables, self._put(stacked, (None, "batch", None)))

    def layers_of_rows(self, layers: list[dict], names: Sequence[str | None]) -> list[dict]:
        """As `variables_of_rows`, for the variables of each layer."""
        if self.lora is None:
            return layers
        if all(map(self.is_merged, names)):
            return [{"params": layer["params"]} for layer in layers]
        factors_BxR = self._put(self._factors(names), ("batch", None))
        return [with_factors(layer, factors_BxR) for layer in layers]

    def _factors(self, names: Sequence[str | None]) -> Float[np.ndarray, "B R"]:
        factors_BxR = np.zeros((len(names), _num_columns(self.adapters)), np.float32)
        names_B = np.array(names, object)
        start = 0
        for name, (_, config) in self.adapters.items():
            columns = slice(start, start + config.r)
            factors_BxR[names_B == name, columns] = config.scale
            if self.is_merged(name):
                factors_BxR[:, columns] -= config.scale
            start += config.r
        return factors_BxR

    def _put(self, array: np.ndarray, axes: tuple[str | None, ...]) -> Array:
        if self.mesh is None:
            return jnp.asarray(array)
        where = sharding_rules.sharding(axes, array.shape, self.mesh)
        return sharding_rules.device_put_global(array, where)


def _join(adapters: Named, config: DecoderConfig, mesh: jax.sharding.Mesh | None) -> AdapterSet:
    unscaled = [
        (tree, dataclasses.replace(settings, lora_alpha=float(settings.r)))
        for tree, settings in adapters.values()
    ]
    joined, settings = concatenate(unscaled)
    missing = _num_columns(adapters) - settings.r

    def pad(path: tuple, matrices: np.ndarray) -> np.ndarray:
        axis = -1 if path[-1].key == "a" else -2
        widths = [(0, 0)] * matrices.ndim
        widths[axis] = (0, missing)
        return np.pad(matrices, widths)

    joined = jax.tree.map_with_path(pad, joined)
    if mesh is None:
        return AdapterSet(adapters, jax.tree.map(jnp.asarray, joined))
    axes = lora_axes(joined, logical_axes(hf.weights(config)))
    return AdapterSet(adapters, sharding_rules.shard(joined, axes, mesh), mesh)


def _num_columns(adapters: Named) -> int:
    rank = sum(settings.r for _, settings in adapters.values())
    return -(-rank // RANK_MULTIPLE) * RANK_MULTIPLE
