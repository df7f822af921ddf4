"""Random tensors under a table's names: none of them 0 or 1 throughout, which would hide a swapped
name."""

import numpy as np
from flax import traverse_util


def random_tensors(table, shapes, seed, positive=()) -> dict[str, np.ndarray]:
    """`positive`: endings of the names of tensors whose numbers must be so."""
    rng, flat, found = np.random.default_rng(seed), traverse_util.flatten_dict(shapes, sep="/"), {}
    for row in table:
        shape = flat[row.path].shape
        size = np.prod(shape[:-1]) if len(shape) > 1 else 4
        x = (rng.normal(size=shape) * np.sqrt(2 / size)).astype(np.float32)
        found[row.hf] = np.abs(x) + 0.1 if row.hf.endswith(tuple(positive)) else x
    return found
