"""Classifier-free guidance as one doubled batch, and its two branches on two halves of a mesh."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float


def stack_branches(
    constrain: Callable, cfg_parallel: bool, negative: Sequence[Array], positive: Sequence[Array]
) -> list[Array]:
    """The doubled batches [2B, ...] of arrays [B, ...] that both branches have.

    The two rows of a video are neighbours, so that they stay on one device. With `cfg_parallel` all
    unconditional rows come first, so that each half of the mesh's `data` axis works on one branch.

    Args:
      constrain: a `ShardingConstraint`.
      negative, positive: the arrays of the unconditional and of the prompt's branch.
    """

    def stack(first: Array, second: Array) -> Array:
        pair = jnp.stack([first, second], axis=0 if cfg_parallel else 1)
        axes = ("batch",) + (None,) * (first.ndim - 1)
        return constrain(pair.reshape(-1, *first.shape[1:]), axes)

    return [stack(*pair) for pair in zip(negative, positive, strict=True)]


def apply_guidance(
    output: Float[Array, "twice_B ..."], scale: Array, cfg_parallel: bool
) -> Float[Array, "B ..."]:
    """The guided model output from that of the 2B rows of `stack_branches`."""
    if cfg_parallel:
        negative, positive = jnp.split(output, 2)
    else:
        pairs = output.reshape(-1, 2, *output.shape[1:])
        negative = pairs[:, 0]
        positive = pairs[:, 1]
    return negative + scale * (positive - negative)


def positive_rows(rows: Float[Array, "twice_B ..."], cfg_parallel: bool) -> Float[Array, "B ..."]:
    """The rows of the prompt's branch in the order of `stack_branches`."""
    return jnp.split(rows, 2)[1] if cfg_parallel else rows[1::2]
