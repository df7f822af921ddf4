"""Which steps may take the blocks' residual of an earlier step, foreseen from how its magnitude
changes.

The residual is what all layers together add to the tokens: output of the last minus input of the
first. From one step to the next it hardly turns for most of the sampling, and its magnitude changes
alike for all prompts, so a curve measured once foretells the error of reusing it.

Source: Ma et al. 2025, MagCache (arXiv 2506.09045), sections 3.2 and 3.3; the details are those of
diffusers 0.42 (`hooks/mag_cache.py`). TeaCache (arXiv 2411.19108) decides from each sample's own
embeddings while it runs instead: then one batch has rows that want to skip and rows that do not,
and a video would depend on its neighbours.
"""

from collections.abc import Collection, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def magnitude_ratio(
    residual: Float[Array, "B ... D"], before: Float[Array, "B ... D"]
) -> Float[Array, ""]:
    """How much longer the residual of a token became since the step before, on average over tokens
    and rows."""
    length = lambda x: jnp.linalg.norm(x.astype(jnp.float32), axis=-1)  # noqa: E731
    return jnp.mean(length(residual) / (length(before) + 1e-8))


def interpolated(ratios: Sequence[float], steps: int) -> Float[np.ndarray, "steps"]:
    """The curve for another number of steps: of each step, the ratio of the nearest one
    measured."""
    ratios = np.asarray(ratios, np.float64)
    if steps == 1:
        return ratios[-1:]
    return ratios[np.round(np.arange(steps) * ((len(ratios) - 1) / (steps - 1))).astype(int)]


def schedule(
    ratios: Sequence[float],
    threshold: float,
    retention: float,
    max_skips: int,
    must: Collection[int] = (),
) -> tuple[bool, ...]:
    """Whether each step is computed.

    The error of a skipped step is |1 - product of the ratios since the last computed one|; errors
    add up until a step is computed. A step is skipped while their sum stays within `threshold`.
    Depends on nothing in the batch.

    Args:
      ratios: of each step's residual to the one before, one per step.
      retention: share of the steps, the first ones, that are always computed; the very first always
        is.
      max_skips: how many skipped steps may follow each other.
      must: further steps that are computed.
    """
    first = max(int(retention * len(ratios) + 0.5), 1)
    computed, product, error, skips = [], 1.0, 0.0, 0
    for step, ratio in enumerate(ratios):
        if step >= first:
            product, skips = product * float(ratio), skips + 1
            error += abs(1 - product)
        if step < first or step in must or error > threshold or skips > max_skips:
            computed.append(True)
            product, error, skips = 1.0, 0.0, 0
        else:
            computed.append(False)
    return tuple(computed)
