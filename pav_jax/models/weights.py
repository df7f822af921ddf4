"""Weight tables: Hugging Face tensor name <-> our parameter path, read in both directions.

Each model has one table, the function `weights(config)` in its `hf.py` (`models/decoder/hf.py` for
the decoder language models). A row names a tensor of the checkpoint, the path of our array, how the
layout changes and the array's logical axes, so that loading, saving and sharding cannot disagree.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from flax import traverse_util

from pav_jax.errors import BadInput

# name -> which axis of the HF array each of our axes is; None: the same layout. torch keeps linear
# weights as [out, in] and convolutions as [out, in, *window]; Flax as [in, out] and
# [*window, in, out].
TRANSFORMS = {"same": None, "linear": (1, 0), "conv2d": (2, 3, 1, 0), "conv3d": (2, 3, 4, 1, 0)}


@dataclasses.dataclass(frozen=True)
class Weight:
    """One row of a weight table.

    Attributes:
      hf: tensor name in the checkpoint. It may contain `{layer}`; then the tensors of all layers
        are stacked on axis 0 of our array.
      path: of our array in the parameter dict, such as "layers/attention/q_proj/kernel".
      transform: key of `TRANSFORMS`.
      axes: logical axes of our array (see `parallel.sharding_rules`); a stacked array's first axis
        is the layers.
      layers: number of stacked layers; 0 for a single tensor.
      experts: number of stacked experts in each layer; `hf` then contains `{expert}` as well, and
        experts are axis 1 of our array. 0: there are none.
      rows: (start, stop, total): our array is only these rows of the tensor, on its first axis in
        the HF layout, of `total`; rows of the table with the same `hf` hold the others.
      keep_float32: load as float32 whatever dtype the other weights take.
    """

    hf: str
    path: str
    transform: str = "same"
    axes: tuple[str | None, ...] = ()
    layers: int = 0
    keep_float32: bool = False
    experts: int = 0
    rows: tuple[int, int, int] | None = None

    @property
    def stack(self) -> tuple[int, ...]:
        """The sizes of the axes of our array that the tensors are stacked on."""
        return tuple(size for size in (self.layers, self.experts) if size)

    def cast(self, dtype: Any) -> Any:
        """Return the dtype of this weight when the others are loaded as `dtype`."""
        return np.float32 if self.keep_float32 and dtype is not None else dtype

    def hf_names(self) -> list[str]:
        """Return the names of all tensors of this row, layer by layer."""
        return [self.hf_name(index) for index in np.ndindex(*self.stack)]

    def hf_name(self, index: Sequence[int]) -> str:
        """Return the name of the tensor at `index` of the stacked axes."""
        return self.hf.format(**dict(zip(("layer", "expert"), index, strict=False)))

    def hf_shape(self, our_shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of one tensor whose stacked array has `our_shape`."""
        shape = self.to_hf(our_shape[len(self.stack) :])
        return shape if self.rows is None else (self.rows[2], *shape[1:])

    def hf_slices(self, slices: Sequence[slice]) -> tuple[slice, ...]:
        """Return the slices of the tensor that hold the slices of our array, without the stacked
        axes; bounds are numbers."""
        reordered = self.to_hf(slices)
        if self.rows is None:
            return reordered
        first, *others = reordered
        start = self.rows[0]
        return (slice(start + first.start, start + first.stop), *others)

    def from_hf(self, array: np.ndarray) -> np.ndarray:
        """Transpose one tensor, or a slice of one, from the HF layout to ours."""
        order = TRANSFORMS[self.transform]
        return array if order is None else array.transpose(order)

    def to_hf(self, items: Iterable) -> tuple:
        """Reorder per-axis items of one tensor (sizes, slices) from our axes to the HF axes."""
        items = tuple(items)
        order = TRANSFORMS[self.transform]
        return items if order is None else tuple(items[i] for i in np.argsort(order))


def linear(
    hf: str,
    path: str,
    axes: tuple[str | None, str | None],
    layers: int = 0,
    keep_float32: bool = False,
) -> list[Weight]:
    """Return the rows of a linear layer with a bias.

    Args:
      hf: tensor name without ".weight" and ".bias".
      path: of the layer, without "/kernel" and "/bias".
      axes: logical axes of its inputs and outputs.
      layers, keep_float32: as in `Weight`.
    """
    stacked = ("layers",) if layers else ()
    return [
        Weight(f"{hf}.weight", f"{path}/kernel", "linear", (*stacked, *axes), layers, keep_float32),
        Weight(f"{hf}.bias", f"{path}/bias", "same", (*stacked, axes[1]), layers, keep_float32),
    ]


def norm(hf: str, path: str, axis: str | None = None, layers: int = 0) -> list[Weight]:
    """Return the rows of a normalization layer with scale and bias; arguments as in `linear`."""
    axes = ("layers", axis) if layers else (axis,)
    return [
        Weight(f"{hf}.weight", f"{path}/scale", "same", axes, layers),
        Weight(f"{hf}.bias", f"{path}/bias", "same", axes, layers),
    ]


def conv(hf: str, path: str, transform: str = "conv3d") -> list[Weight]:
    """Return the rows of a replicated convolution with a bias; arguments as in `Weight`."""
    axes = (None,) * len(TRANSFORMS[transform] or ())
    return [
        Weight(f"{hf}.weight", f"{path}/kernel", transform, axes),
        Weight(f"{hf}.bias", f"{path}/bias", "same", (None,)),
    ]


class SlicedTensors(Protocol):
    """Tensors by name, of which slices can be read without reading the rest."""

    def __contains__(self, name: str) -> bool: ...
    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        ...

    def part(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
        """Return a slice of a tensor."""
        ...


def params_from_hf(
    table: Sequence[Weight],
    tensors: Mapping[str, np.ndarray],
    source: str,
    dtype: Any = None,
    expected: Mapping[str, Any] | None = None,
) -> dict:
    """Read the tensors of a weight table into a nested parameter dict, on the host.

    Args:
      source: where the tensors come from; named in errors.
      dtype: to cast to; None keeps each tensor's own.
      expected: the tree of `jax.eval_shape(model.init, ...)["params"]`, to check shapes against.

    Raises:
      BadInput: a tensor is missing or does not have the shape that the configuration implies.
    """
    shapes = None if expected is None else _flatten(expected)
    params = {}
    for row in table:
        check_names([row], tensors, source)
        parts = []
        for name in row.hf_names():
            tensor = np.asarray(tensors[name])
            if shapes is not None:
                _check_shape(row, name, tensor.shape, shapes[row.path].shape, source)
            if row.rows is not None:
                tensor = tensor[slice(*row.rows[:2])]
            part = row.from_hf(tensor)
            parts.append(part if dtype is None else part.astype(row.cast(dtype)))
        stacked = np.stack(parts) if row.stack else parts[0]
        params[row.path] = stacked.reshape((*row.stack, *parts[0].shape))
    if shapes is not None and (extra := sorted(set(shapes) - set(params))):
        raise BadInput(
            f"{source}: the weight table has no tensor for parameter {extra[0]!r}",
            source=source,
            field=extra[0],
        )
    return traverse_util.unflatten_dict(params, sep="/")


def sharded_params_from_hf(
    table: Sequence[Weight],
    tensors: SlicedTensors,
    source: str,
    dtype: Any,
    expected: Mapping[str, Any],
    make_sharding: Callable[[Sequence, Sequence[int]], jax.sharding.Sharding],
) -> dict:
    """Read the tensors of a weight table straight onto devices, as global arrays.

    Each process reads only the slices that its devices hold, each slice once and one at a time, so
    the host never holds more than one of them.

    Args:
      table, tensors, source, dtype, expected: as in `params_from_hf`.
      make_sharding: (logical axes, shape) -> sharding.

    Raises:
      BadInput: as in `params_from_hf`.
    """
    shapes = _flatten(expected)
    params = {}
    for row in table:
        check_names([row], tensors, source)
        shape = tuple(shapes[row.path].shape)
        for name in row.hf_names():
            _check_shape(row, name, tensors.shape(name), shape, source)
        sharding = make_sharding(row.axes, shape)
        params[row.path] = _read_sharded(row, tensors, shape, sharding, row.cast(dtype))
    return traverse_util.unflatten_dict(params, sep="/")


def _read_sharded(
    row: Weight,
    tensors: SlicedTensors,
    shape: tuple[int, ...],
    sharding: jax.sharding.Sharding,
    dtype: Any,
) -> jax.Array:
    devices_by_bounds: dict[tuple, list] = {}
    for device, index in sharding.addressable_devices_indices_map(shape).items():
        assert index is not None  # None stands for devices of other processes
        bounds = tuple(s.indices(size)[:2] for s, size in zip(index, shape, strict=True))
        devices_by_bounds.setdefault(bounds, []).append(device)
    arrays = []
    for bounds, devices in devices_by_bounds.items():
        part = _read_part(row, tensors, bounds, dtype)
        arrays += jax.block_until_ready([jax.device_put(part, device) for device in devices])
    return jax.make_array_from_single_device_arrays(shape, sharding, arrays, dtype=dtype)


def _read_part(
    row: Weight, tensors: SlicedTensors, bounds: Sequence[tuple[int, int]], dtype: Any
) -> np.ndarray:
    """Read the slice of our array within `bounds`; of a stacked array one tensor at a time."""
    depth = len(row.stack)
    index = row.hf_slices([slice(*b) for b in bounds[depth:]])
    if not row.stack:
        return row.from_hf(tensors.part(row.hf, index)).astype(dtype)
    sizes = [stop - start for start, stop in bounds]
    part = np.empty(sizes, dtype)
    for place in np.ndindex(*sizes[:depth]):
        name = row.hf_name([start + i for (start, _), i in zip(bounds, place, strict=False)])
        part[place] = row.from_hf(tensors.part(name, index))
    return part


def _flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    return dict(traverse_util.flatten_dict(tree, sep="/"))


def check_names(table: Sequence[Weight], tensors: Any, source: str) -> None:
    """Check that all tensors of a weight table are among `tensors`.

    Raises:
      BadInput: one is missing.
    """
    for row in table:
        for name in row.hf_names():
            if name not in tensors:
                raise BadInput(
                    f"{source}: tensor {name!r} is missing; is this a checkpoint of another model?",
                    source=source,
                    field=name,
                )


def _check_shape(
    row: Weight, name: str, shape: Sequence[int], our_shape: Sequence[int], source: str
) -> None:
    expected = row.hf_shape(our_shape)
    if tuple(shape) != expected:
        raise BadInput(
            f"{source}: tensor {name!r} has shape {list(shape)}, config.json says"
            f" {list(expected)}; use the config.json that belongs to these weights",
            source=source,
            field=name,
        )


def params_to_hf(table: Sequence[Weight], params: Mapping) -> dict[str, np.ndarray]:
    """Invert `params_from_hf`.

    Returns:
      HF tensor name -> contiguous array in the HF layout, in the dtype of `params`.
    """
    flat = _flatten(params)
    parts: dict[str, list[np.ndarray]] = {}
    for row in table:
        array = np.asarray(flat[row.path])
        array = array.reshape(-1, *array.shape[len(row.stack) :])
        for name, part in zip(row.hf_names(), map(np.asarray, array), strict=True):
            parts.setdefault(name, []).append(part.transpose(row.to_hf(range(part.ndim))))
    return {
        name: np.asarray(group[0] if len(group) == 1 else np.concatenate(group), order="C")
        for name, group in parts.items()
    }


def logical_axes(table: Sequence[Weight]) -> dict:
    """Return the tree of logical axis names, shaped like the parameters."""
    return traverse_util.unflatten_dict({row.path: row.axes for row in table}, sep="/")


def loaded_shapes(table: Sequence[Weight], shapes: Mapping, dtype: Any) -> dict:
    """Return the tree of `shapes` with the dtypes that loading as `dtype` gives."""
    flat = _flatten(shapes)
    return traverse_util.unflatten_dict(
        {row.path: jax.ShapeDtypeStruct(flat[row.path].shape, row.cast(dtype)) for row in table},
        sep="/",
    )
