"""What pays for large models on a CPU only: fewer rows at the end of a batch, 8-bit kernels."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pav_jax.language.lora import count

MIN_PARAMETERS = 50_000_000
PROBED_ROWS = (2, 4, 8, 16, 32, 64)
PROBED_SHAPES = ((576, 1536), (1536, 576), (896, 896))  # outputs and inputs of a kernel


def is_large_on_cpu(params: Any, mesh: jax.sharding.Mesh | None) -> bool:
    """Return whether a model has many float32 parameters, all on one CPU."""
    return (
        jax.default_backend() == "cpu"
        and mesh is None
        and all(a.dtype == np.float32 for a in jax.tree.leaves(params))
        and count(params) >= MIN_PARAMETERS
    )


@functools.cache
def rows_are_independent() -> bool:
    """Return whether float32 products with kernels [out, in] do not depend on the number of rows.

    Then a row has the same bits in a batch of any size from two. XLA's libraries do not promise it,
    so it is tried once, in less than a second.
    """
    rng = np.random.default_rng(0)

    @jax.jit
    def multiply(x, kernel):
        return jnp.matmul(x, kernel.T)

    for shape in PROBED_SHAPES:
        kernel = rng.normal(size=shape).astype(np.float32)
        x = rng.normal(size=(PROBED_ROWS[-1], shape[1])).astype(np.float32)
        whole = np.asarray(multiply(x, kernel))
        if any((np.asarray(multiply(x[-n:], kernel)) != whole[-n:]).any() for n in PROBED_ROWS):
            return False
    return True
