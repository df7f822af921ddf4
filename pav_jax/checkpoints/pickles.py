"""Arrays out of a pickle, of which nothing but numpy arrays in nested dicts is read."""

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


class _ArraysOnly(pickle.Unpickler):
    """A pickle runs what it names; this one may name numpy's own constructors alone."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """{"outer/inner": array} of a pickled nest of dicts.

    Raises:
      BadInput: the file is missing, broken, or holds anything besides arrays of numbers.
    """
    try:
        with open(path, "rb") as file:
            found = _ArraysOnly(file).load()
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from error
    except Exception as error:  # a broken pickle makes the unpickler raise nearly anything
        raise BadInput(f"{path}: not a pickle of numpy arrays ({error})") from error
    arrays: dict[str, np.ndarray] = {}
    _add(arrays, found, "", path)
    return arrays


def read_params(path: str | Path, table: Sequence[Weight], expected: Mapping[str, Any]) -> dict:
    """The parameters that `table` names, in the shapes of `expected`; axes of length one that are
    too many are dropped.

    Raises:
      BadInput: not such a file, or a file of another model.
    """
    shapes = traverse_util.flatten_dict(expected, sep="/")
    arrays = read_arrays(path)
    for row in table:
        want, array = shapes[row.path].shape, arrays.get(row.hf)
        if array is not None and [n for n in array.shape if n != 1] == [n for n in want if n != 1]:
            arrays[row.hf] = array.reshape(want)
    return params_from_hf(table, arrays, str(path), np.float32, expected)


def _add(arrays: dict[str, np.ndarray], found: Any, name: str, path: str | Path) -> None:
    if isinstance(found, Mapping):
        for key, inner in found.items():
            _add(arrays, inner, f"{name}/{key}" if name else str(key), path)
    elif isinstance(found, np.ndarray) and found.dtype.kind in "fiub":
        arrays[name] = found
    else:
        raise BadInput(f"{path}: {name or 'it'} is no array of numbers")
