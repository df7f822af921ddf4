"""A model's folder as transformers and diffusers write it: config.json beside safetensors, read and
written by the model's own table of names."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

from pav_jax.checkpoints.safetensors import STEMS, read_tensors, write_tensors
from pav_jax.errors import BadInput
from pav_jax.models.weights import Weight, params_from_hf, params_to_hf, sharded_params_from_hf
from pav_jax.storage.json_files import read_json, write_json


class Layout(Protocol):
    """What an `hf.py` of `models` defines. It may also define `fit_config(config, tensors)`, for
    what only the tensors' names tell, as whether a head has a bias."""

    STEM: str  # of the safetensors' names

    def config_from_hf(self, fields: Mapping[str, Any], source: str) -> Any: ...
    def config_to_hf(self, config: Any) -> dict[str, Any]: ...
    def weights(self, config: Any) -> list[Weight]: ...
    def param_shapes(self, config: Any) -> dict: ...


def load(
    layout: Layout, folder: str | Path, dtype: Any = None, where: Callable | None = None
) -> tuple[Any, dict]:
    """The configuration and the parameters (numpy arrays, cast to `dtype` where given) in `folder`.

    Args:
      where: logical axes and shape -> sharding; the parameters are then made there, of the parts
        that this process's devices hold, and no other part of a file is read.

    Raises:
      BadInput: a missing, half-written or foreign checkpoint.
    """
    path = Path(folder) / "config.json"
    config = layout.config_from_hf(read_json(path), str(path))
    tensors = read_tensors(folder, (layout.STEM,))
    if hasattr(layout, "fit_config"):
        config = layout.fit_config(config, tensors)
    if where is not None:
        return config, sharded_params_from_hf(
            layout.weights(config), tensors, str(folder), dtype, layout.param_shapes(config), where
        )
    return config, params_from_hf(
        layout.weights(config), tensors, str(folder), dtype, layout.param_shapes(config)
    )


def check_finite(params: Mapping, folder: str | Path, stems: tuple[str, ...] = STEMS) -> None:
    """Raises BadInput where a parameter read from `folder` is NaN or infinite; names the file and
    the tensor.

    One such number makes every output NaN, which would be noticed late and far from its cause.
    """
    if all(_finite(leaf) for leaf in jax.tree.leaves(params)):
        return
    tensors = read_tensors(folder, stems)
    for name in tensors:
        if not _finite(tensors[name]):
            raise BadInput(
                f"{tensors.file(name)}: tensor {name} holds NaN or infinity; fetch or export the"
                " checkpoint again"
            )
    raise BadInput(
        f"{folder}: its weights become infinite in the dtype that was asked for; choose float32"
    )


def _finite(array: Any) -> bool:
    # on a mesh part by part: the whole need not fit anywhere
    parts = (
        [one.data for one in array.addressable_shards if not one.replica_id]
        if isinstance(array, jax.Array)
        else [array]
    )
    # a sum is NaN or infinite where a term is; unlike isfinite it needs no second array of that
    # size
    return all(np.isfinite(np.sum(np.asarray(part), dtype=np.float64)) for part in parts)


def save(
    layout: Layout, folder: str | Path, config: Any, params: Mapping, max_shard_size: str = "5GB"
) -> None:
    """Writes a folder that the original's `from_pretrained` loads."""
    tensors = params_to_hf(layout.weights(config), params)
    fields = layout.config_to_hf(config)
    if "torch_dtype" in fields:
        fields["torch_dtype"] = str(next(iter(tensors.values())).dtype)
    write_tensors(folder, tensors, layout.STEM, max_shard_size)
    write_json(Path(folder) / "config.json", fields)
