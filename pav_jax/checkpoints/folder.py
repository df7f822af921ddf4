"""A model's folder as transformers and diffusers write it: config.json beside safetensors, read and
written with the model's own table of weights."""

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from pav_jax.checkpoints.config_sizes import check_depths, check_sizes
from pav_jax.checkpoints.safetensors import STEMS, TensorFolder, read_tensors, write_tensors
from pav_jax.errors import BadInput
from pav_jax.models.weights import (
    Weight,
    check_names,
    params_from_hf,
    params_to_hf,
    sharded_params_from_hf,
)
from pav_jax.storage.addresses import as_path, is_remote
from pav_jax.storage.folders import local_copy
from pav_jax.storage.json_files import read_json, write_json


class Layout(Protocol):
    """A module `models/<family>/hf.py`: a model's configuration and weights as published."""

    @property
    def STEM(self) -> str:  # noqa: N802  (a module's constant)
        """The stem of the safetensors files' names, one of `safetensors.STEMS`."""
        ...

    def config_from_hf(self, fields: Mapping[str, Any], source: str, /) -> Any:
        """The model's configuration from the fields of config.json."""
        ...

    def config_to_hf(self, config: Any, /) -> dict[str, Any]:
        """The fields of config.json from the model's configuration."""
        ...

    def weights(self, config: Any, /) -> Sequence[Weight]:
        """The tensors of a checkpoint, and which parameter each becomes."""
        ...

    def param_shapes(self, config: Any, /) -> dict:
        """The shapes and dtypes of the parameters, as a nested dictionary."""
        ...


@runtime_checkable
class TensorAwareLayout(Layout, Protocol):
    """A layout whose configuration depends on which tensors there are, as on a head's bias."""

    def fit_config(self, config: Any, tensors: Mapping[str, np.ndarray], source: str, /) -> Any:
        """The configuration, adapted to the tensors of the checkpoint in the folder `source`."""
        ...


@runtime_checkable
class WrappedLayout(Layout, Protocol):
    """A layout of a model that some checkpoints hold as part of a larger one."""

    @property
    def PREFIXES(self) -> Mapping[str, str]:  # noqa: N802  (a module's constant)
        """Prefix of the tensors' names in a larger model -> the prefix without it."""
        ...


def load(
    layout: Layout, folder: str | Path, dtype: Any = None, where: Callable | None = None
) -> tuple[Any, dict]:
    """Read the configuration and the parameters in `folder`.

    Args:
      layout: the module `hf` of the model.
      folder: config.json and safetensors.
      dtype: of the parameters; None keeps the dtype of the file.
      where: (logical axes, shape) -> sharding. The parameters are then JAX arrays with these
        shardings, and only the parts that this process's devices hold are read. Without it they are
        numpy arrays.

    Raises:
      BadInput: the checkpoint is missing, incomplete or of another model.
    """
    folder = local_copy(folder)
    config = read_config(layout, folder)
    tensors = read_tensors(folder, (layout.STEM,))
    if isinstance(layout, WrappedLayout):
        tensors = tensors.with_prefixes(layout.PREFIXES)
    if isinstance(layout, TensorAwareLayout):
        config = layout.fit_config(config, tensors, str(folder))
    table = layout.weights(config)
    check_names(table, tensors, str(folder))  # before shapes, which take time for many layers
    shapes = param_shapes(layout, config, folder)
    if where is None:
        return config, params_from_hf(table, tensors, str(folder), dtype, shapes)
    return config, sharded_params_from_hf(table, tensors, str(folder), dtype, shapes, where)


def read_config(layout: Layout, folder: str | os.PathLike) -> Any:
    """Read the model's configuration from config.json in `folder`.

    Raises:
      BadInput: the file is missing or invalid, of another model, or its sizes are above all weights
        beside it.
    """
    path = as_path(folder) / "config.json"
    fields = read_json(path)
    config = layout.config_from_hf(fields, str(path))
    if not is_remote(path):
        check_sizes(config, fields, Path(path))
    return config


def param_shapes(layout: Layout, config: Any, folder: str | os.PathLike) -> dict:
    """The shapes of a model's parameters.

    Raises:
      BadInput: the sizes in config.json contradict each other or the weights beside it.
    """
    if not is_remote(folder) and any(Path(folder).glob("*.safetensors")):
        # the shapes of a million layers would take hours
        check_depths(config, len(read_tensors(Path(folder), (layout.STEM,))), Path(folder))
    try:
        return traced_shapes(layout, config)
    except BadInput:
        raise
    except Exception as error:  # JAX and Flax raise many types for sizes that make no model
        path = as_path(folder) / "config.json"
        reason = " ".join(str(error).split())[:200]
        raise BadInput(
            f"{path}: these sizes do not make a model ({reason}); use the config.json that belongs"
            " to the weights",
            source=path,
        ) from error


def traced_shapes(layout: Layout, config: Any) -> dict:
    """Return `layout.param_shapes(config)`, remembered: tracing a model takes up to a second."""
    return jax.tree.map(lambda shape: shape, _traced_shapes(layout, config))  # dictionaries anew


@functools.lru_cache(maxsize=64)
def _traced_shapes(layout: Layout, config: Any) -> dict:
    return layout.param_shapes(config)


def save(
    layout: Layout, folder: str | Path, config: Any, params: Mapping, max_shard_size: str = "5GB"
) -> None:
    """Write a folder that `from_pretrained` of the original library loads."""
    tensors = params_to_hf(layout.weights(config), params)
    fields = layout.config_to_hf(config)
    if "torch_dtype" in fields:
        fields["torch_dtype"] = str(next(iter(tensors.values())).dtype)
    write_tensors(folder, tensors, layout.STEM, max_shard_size)
    write_json(Path(folder) / "config.json", fields)


def check_finite(
    params: Mapping,
    folder: str | Path,
    stems: tuple[str, ...] = STEMS,
    tensors: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Check that no parameter read from `folder` is NaN or infinite.

    One such parameter makes every output NaN, which shows up late and far from its cause.

    Args:
      folder: the folder, or the file of `tensors`.
      stems: of the files' names.
      tensors: what the parameters were read from; None reads the folder.

    Raises:
      BadInput: one is; the message names the file and the tensor.
    """
    if all(_is_finite(leaf) for leaf in jax.tree.leaves(params)):
        return
    if tensors is None:
        tensors = read_tensors(folder, stems)
    for name in tensors:
        if not _is_finite(tensors[name]):
            file = tensors.file(name) if isinstance(tensors, TensorFolder) else folder
            raise BadInput(
                f"{file}: tensor {name} contains NaN or infinity; download or export the checkpoint"
                " again",
                source=file,
                field=name,
            )
    raise BadInput(
        f"{folder}: weights overflow to infinity in the requested dtype; use float32",
        source=folder,
        field="dtype",
    )


def _is_finite(array: Any) -> bool:
    if isinstance(array, jax.Array):
        # shard by shard: the whole array may not fit on one device
        parts = [shard.data for shard in array.addressable_shards if not shard.replica_id]
    else:
        parts = [array]
    # the sum is NaN or infinite if a term is; unlike isfinite it allocates no second array
    return all(np.isfinite(np.sum(np.asarray(part), dtype=np.float64)) for part in parts)
