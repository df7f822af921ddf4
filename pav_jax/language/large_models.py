"""What pays for large models on a CPU only: batches that change their size, 8-bit kernels."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pav_jax.language.lora import count
from pav_jax.models.attention.cached import cached_attention

MIN_PARAMETERS = 50_000_000
PROBED_ROWS = (2, 4, 8, 16, 32, 64)
PROBED_SLOTS = (96, 160, 288)
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
def sizes_keep_results() -> bool:
    """Return whether float32 results do not depend on the numbers of rows and of empty slots.

    Then a row has the same bits in a batch of any size from two, with a cache of any size. XLA's
    libraries do not promise it, so it is tried once, in less than a second.
    """
    return _rows_keep_products() and _slots_keep_attention()


def _rows_keep_products() -> bool:
    """Try products with kernels [out, in]."""
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


def _slots_keep_attention() -> bool:
    """Try attention to caches with more and more empty slots."""
    rng = np.random.default_rng(0)
    b, n, k, h = 8, 9, 3, 64
    filled, *more = PROBED_SLOTS
    q_Bx1xNxH = rng.normal(size=(b, 1, n, h)).astype(np.float32)
    keys_BxKxHxS = rng.normal(size=(b, k, h, more[-1])).astype(np.float32)
    values_BxKxSxH = rng.normal(size=(b, k, more[-1], h)).astype(np.float32)
    attend = jax.jit(cached_attention)

    def out(slots: int) -> np.ndarray:
        mask_Bx1x1xS = np.broadcast_to(np.arange(slots) < filled, (b, 1, 1, slots))
        own = keys_BxKxHxS[..., :slots], values_BxKxSxH[:, :, :slots]
        return np.asarray(attend(q_Bx1xNxH, None, own, mask_Bx1x1xS))

    return all((out(slots) == out(filled)).all() for slots in more)
