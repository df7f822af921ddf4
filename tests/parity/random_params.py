"""Random tensors under the names of a weight table.

None is constant 0 or 1, which would hide a swapped name.
"""

import numpy as np
from flax import traverse_util


def random_tensors(table, shapes, seed, positive=()) -> dict[str, np.ndarray]:
    """Return random tensors; those whose name ends with one of `positive` are positive."""
    rng = np.random.default_rng(seed)
    flat = traverse_util.flatten_dict(shapes, sep="/")
    tensors = {}
    for row in table:
        shape = flat[row.path].shape
        size = np.prod(shape[:-1]) if len(shape) > 1 else 4
        x = (rng.normal(size=shape) * np.sqrt(2 / size)).astype(np.float32)
        tensors[row.hf] = np.abs(x) + 0.1 if row.hf.endswith(tuple(positive)) else x
    return tensors
