"""One table per model: Hugging Face tensor name <-> our parameter path, read in both directions.

A table row also carries the logical axis names of our array, so loading, saving and sharding cannot
drift apart.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from flax import traverse_util

from pav_jax.errors import BadInput

# name -> which axis of the HF array each of our axes is; None: as it is. torch keeps linear weights
# as [out, in] and convolutions as [out, in, *window]; Flax as [in, out] and [*window, in, out].
TRANSFORMS = {"same": None, "linear": (1, 0), "conv2d": (2, 3, 1, 0), "conv3d": (2, 3, 4, 1, 0)}


@dataclasses.dataclass(frozen=True)
class Weight:
    """One row. `hf` may hold `{layer}`; then `layers` tensors are stacked on axis 0 of the array at
    `path`."""

    hf: str
    path: str  # "layers/attention/q_proj/kernel"
    transform: str = "same"
    axes: tuple[
        str | None, ...
    ] = ()  # logical axes of our array, the leading "layers" included where stacked
    layers: int = 0
    keep_float32: bool = False  # loaded as float32 whatever type the other weights take

    def cast(self, dtype: Any) -> Any:
        """The type this weight takes where the others are loaded as `dtype`."""
        return np.float32 if self.keep_float32 and dtype is not None else dtype

    def hf_names(self) -> list[str]:
        return [self.hf.format(layer=i) for i in range(self.layers)] if self.layers else [self.hf]

    def from_hf(self, array: np.ndarray) -> np.ndarray:
        """One tensor, or any part of one, of the HF layout to ours."""
        order = TRANSFORMS[self.transform]
        return array if order is None else array.transpose(order)

    def to_hf(self, items: Sequence) -> tuple:
        """What belongs to our axes of one tensor (sizes, slices), in the order of the HF axes."""
        order = TRANSFORMS[self.transform]
        return tuple(items) if order is None else tuple(items[i] for i in np.argsort(order))


def linear(
    hf: str, path: str, axes: tuple[str | None, str | None], layers: int = 0, float32: bool = False
) -> list[Weight]:
    """The rows of a linear layer with a bias: `axes` are those of its inputs and outputs."""
    lead = ("layers",) if layers else ()
    return [
        Weight(f"{hf}.weight", f"{path}/kernel", "linear", (*lead, *axes), layers, float32),
        Weight(f"{hf}.bias", f"{path}/bias", "same", (*lead, axes[1]), layers, float32),
    ]


class Sliced(Protocol):
    """Tensors of which parts can be read without the rest."""

    def __contains__(self, name: str) -> bool: ...
    def shape(self, name: str) -> tuple[int, ...]: ...
    def part(self, name: str, index: tuple[slice, ...]) -> np.ndarray: ...


def params_from_hf(
    table: Sequence[Weight],
    tensors: Mapping[str, np.ndarray],
    source: str,
    dtype: Any = None,
    expected: Mapping[str, Any] | None = None,
) -> dict:
    """Reads `table` from `tensors` into a nested parameter dict.

    Args:
      source: where the tensors come from; named in errors.
      dtype: cast to this where given.
      expected: the tree of `jax.eval_shape(model.init, ...)["params"]`; shapes are checked against
        it.

    Raises:
      BadInput: a tensor is missing or has another shape than the configuration says.
    """
    shapes = traverse_util.flatten_dict(expected, sep="/") if expected is not None else None
    flat = {}
    for row in table:
        _check_names(row, tensors, source)
        parts = []
        for name in row.hf_names():
            part = np.asarray(tensors[name])
            if shapes is not None:
                _check_shape(row, name, part.shape, shapes[row.path].shape, source)
            part = row.from_hf(part)
            parts.append(part if dtype is None else part.astype(row.cast(dtype)))
        flat[row.path] = np.stack(parts) if row.layers else parts[0]
    if shapes is not None and (extra := sorted(set(shapes) - set(flat))):
        raise BadInput(f"{source}: the table names no tensor for parameter {extra[0]!r}")
    return traverse_util.unflatten_dict(flat, sep="/")


def sharded_params_from_hf(
    table: Sequence[Weight],
    tensors: Sliced,
    source: str,
    dtype: Any,
    expected: Mapping[str, Any],
    where: Callable[[Sequence, Sequence[int]], jax.sharding.Sharding],
) -> dict:
    """As `params_from_hf`, onto devices. Of each tensor only what this process's devices hold is
    read, once.

    Args:
      where: logical axes and shape -> sharding.
    """
    shapes = traverse_util.flatten_dict(expected, sep="/")
    flat = {}
    for row in table:
        _check_names(row, tensors, source)
        shape = tuple(shapes[row.path].shape)
        for name in row.hf_names():
            _check_shape(row, name, tensors.shape(name), shape, source)

        sharding, kind = where(row.axes, shape), row.cast(dtype)
        parts: dict[tuple, list[jax.Device]] = {}  # devices with the same part share it
        for device, index in sharding.addressable_devices_indices_map(shape).items():
            bounds = tuple(s.indices(size)[:2] for s, size in zip(index, shape, strict=True))
            parts.setdefault(bounds, []).append(device)
        arrays = []
        for (
            bounds,
            devices,
        ) in parts.items():  # one after the other: no more than one part is on the host
            part = _read(row, tensors, bounds, kind)
            arrays += jax.block_until_ready([jax.device_put(part, device) for device in devices])
        flat[row.path] = jax.make_array_from_single_device_arrays(
            shape, sharding, arrays, dtype=kind
        )
    return traverse_util.unflatten_dict(flat, sep="/")


def _read(
    row: Weight, tensors: Sliced, bounds: Sequence[tuple[int, int]], dtype: Any
) -> np.ndarray:
    """The part of our array within `bounds`; of what is stacked, one layer at a time."""
    index = [slice(*b) for b in bounds]
    if not row.layers:
        return row.from_hf(tensors.part(row.hf, row.to_hf(index))).astype(dtype)
    layers, inner = index[0], index[1:]
    part = np.empty([stop - start for start, stop in bounds], dtype)
    for i, name in enumerate(row.hf_names()[layers]):
        part[i] = row.from_hf(tensors.part(name, row.to_hf(inner)))
    return part


def _check_names(row: Weight, tensors: Any, source: str) -> None:
    if missing := [name for name in row.hf_names() if name not in tensors]:
        raise BadInput(
            f"{source}: tensor {missing[0]!r} is missing; is this a checkpoint of another model?"
        )


def _check_shape(
    row: Weight, name: str, found: Sequence[int], ours: Sequence[int], source: str
) -> None:
    want = row.to_hf(ours[1:] if row.layers else ours)
    if tuple(found) != want:
        raise BadInput(
            f"{source}: tensor {name!r} has shape {list(found)}, config.json says {list(want)};"
            " use the config.json that belongs to these weights"
        )


def params_to_hf(table: Sequence[Weight], params: Mapping) -> dict[str, np.ndarray]:
    """The inverse: {HF name: array in the HF layout}, contiguous, in the dtype of `params`."""
    flat = traverse_util.flatten_dict(params, sep="/")
    tensors = {}
    for row in table:
        array = np.asarray(flat[row.path])
        for name, part in zip(row.hf_names(), array if row.layers else [array], strict=True):
            tensors[name] = np.asarray(part.transpose(row.to_hf(range(part.ndim))), order="C")
    return tensors


def logical_axes(table: Sequence[Weight]) -> dict:
    """The tree of logical axis names, shaped like the parameters."""
    return traverse_util.unflatten_dict({row.path: row.axes for row in table}, sep="/")


def loaded_shapes(table: Sequence[Weight], shapes: Mapping, dtype: Any) -> dict:
    """The tree of shapes with the types that loading as `dtype` gives."""
    flat = traverse_util.flatten_dict(shapes, sep="/")
    return traverse_util.unflatten_dict(
        {row.path: jax.ShapeDtypeStruct(flat[row.path].shape, row.cast(dtype)) for row in table},
        sep="/",
    )
