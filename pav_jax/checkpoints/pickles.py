"""Reads numpy arrays from a pickle without running anything that the pickle names."""

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from pav_jax.errors import BadInput
from pav_jax.models.weights import Weight, params_from_hf

# the only names a pickle of numpy arrays needs; numpy 2 writes the second form of the first
ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
}


class _ArrayUnpickler(pickle.Unpickler):
    """An unpickler that may look up numpy's array constructors and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """Read a pickle of nested dicts of arrays as {"outer/inner": array}.

    Raises:
      BadInput: the file is missing or broken, or contains anything but numeric arrays.
    """
    try:
        with open(path, "rb") as file:
            content = _ArrayUnpickler(file).load()
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})", source=path) from error
    except Exception as error:  # a broken pickle makes the unpickler raise nearly anything
        raise BadInput(f"{path}: not a pickle of numpy arrays ({error})", source=path) from error
    arrays: dict[str, np.ndarray] = {}
    _collect(arrays, content, "", path)
    return arrays


def read_params(path: str | Path, table: Sequence[Weight], expected: Mapping[str, Any]) -> dict:
    """Read the parameters of `table` from a pickle.

    Args:
      expected: the parameters' shapes; additional axes of length one in the file are dropped.

    Raises:
      BadInput: the file is broken or of another model.
    """
    shapes: dict[str, Any] = traverse_util.flatten_dict(expected, sep="/")
    arrays = read_arrays(path)
    for weight in table:
        shape = shapes[weight.path].shape
        array = arrays.get(weight.hf)
        if array is not None and _without_ones(array.shape) == _without_ones(shape):
            arrays[weight.hf] = array.reshape(shape)
    return params_from_hf(table, arrays, str(path), np.float32, expected)


def _without_ones(shape: Sequence[int]) -> list[int]:
    return [size for size in shape if size != 1]


def _collect(arrays: dict[str, np.ndarray], value: Any, name: str, path: str | Path) -> None:
    """Add the arrays nested in `value` to `arrays`."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _collect(arrays, inner, f"{name}/{key}" if name else str(key), path)
    elif isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        arrays[name] = value
    else:
        raise BadInput(
            f"{path}: {name or 'the content'} is not a numeric array; re-export the weights as"
            " numpy arrays",
            source=path,
            field=name or None,
        )
