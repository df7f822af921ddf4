"""One table per model: Hugging Face tensor name <-> our parameter path, read in both directions.

A table row also carries the logical axis names of our array, so loading, saving and sharding cannot drift apart.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flax import traverse_util

from pav_jax.errors import BadInput

# name -> (HF array to ours, ours to HF). torch keeps linear weights as [out, in] and convolutions as
# [out, in, *window]; Flax as [in, out] and [*window, in, out].
TRANSFORMS = {
    "same": (lambda w: w, lambda w: w),
    "linear": (lambda w: w.T, lambda w: w.T),
    "conv2d": (lambda w: w.transpose(2, 3, 1, 0), lambda w: w.transpose(3, 2, 0, 1)),
    "conv3d": (lambda w: w.transpose(2, 3, 4, 1, 0), lambda w: w.transpose(4, 3, 0, 1, 2)),
}


@dataclasses.dataclass(frozen=True)
class Weight:
    """One row. `hf` may hold `{layer}`; then `layers` tensors are stacked on axis 0 of the array at `path`."""

    hf: str
    path: str  # "layers/attention/q_proj/kernel"
    transform: str = "same"
    axes: tuple[str | None, ...] = ()  # logical axes of our array, the leading "layers" included where stacked
    layers: int = 0

    def hf_names(self) -> list[str]:
        return [self.hf.format(layer=i) for i in range(self.layers)] if self.layers else [self.hf]


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
      expected: the tree of `jax.eval_shape(model.init, ...)["params"]`; shapes are checked against it.

    Raises:
      BadInput: a tensor is missing or has another shape than the configuration says.
    """
    shapes = traverse_util.flatten_dict(expected, sep="/") if expected is not None else None
    flat = {}
    for row in table:
        missing = [name for name in row.hf_names() if name not in tensors]
        if missing:
            raise BadInput(f"{source}: tensor {missing[0]!r} is missing; is this a checkpoint of another model?")
        forward = TRANSFORMS[row.transform][0]
        want = tuple(shapes[row.path].shape) if shapes is not None else None
        parts = []
        for name in row.hf_names():
            part = np.asarray(tensors[name])
            if want is not None:
                inner = want[1:] if row.layers else want
                fits = TRANSFORMS[row.transform][1](np.broadcast_to(np.zeros((), np.int8), inner)).shape
                if part.shape != fits:
                    raise BadInput(
                        f"{source}: tensor {name!r} has shape {list(part.shape)}, config.json says {list(fits)};"
                        " use the config.json that belongs to these weights"
                    )
            part = forward(part)
            parts.append(part if dtype is None else part.astype(dtype))
        flat[row.path] = np.stack(parts) if row.layers else parts[0]
    if shapes is not None and (extra := sorted(set(shapes) - set(flat))):
        raise BadInput(f"{source}: the table names no tensor for parameter {extra[0]!r}")
    return traverse_util.unflatten_dict(flat, sep="/")


def params_to_hf(table: Sequence[Weight], params: Mapping) -> dict[str, np.ndarray]:
    """The inverse: {HF name: array in the HF layout}, contiguous, in the dtype of `params`."""
    flat = traverse_util.flatten_dict(params, sep="/")
    tensors = {}
    for row in table:
        backward = TRANSFORMS[row.transform][1]
        array = np.asarray(flat[row.path])
        for name, part in zip(row.hf_names(), array if row.layers else [array], strict=True):
            tensors[name] = np.asarray(backward(part), order="C")
    return tensors


def logical_axes(table: Sequence[Weight]) -> dict:
    """The tree of logical axis names, shaped like the parameters."""
    return traverse_util.unflatten_dict({row.path: row.axes for row in table}, sep="/")
