"""Which steps may reuse the layers' residual of an earlier step, predicted from its magnitude.

The residual is what all layers together add to the tokens: output of the last minus input of the
first. Between steps its direction hardly changes for most of the sampling, and its magnitude
changes in the same way for all prompts, so a curve measured once predicts the error of reusing it.

Source: Ma et al. 2025, MagCache (arXiv 2506.09045), sections 3.2 and 3.3; the details are those of
diffusers 0.42 (`hooks/mag_cache.py`). TeaCache (arXiv 2411.19108) decides from each sample's own
embeddings while it runs; the rows of a batch would then disagree, and a video would depend on the
others.
"""

from collections.abc import Collection, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def magnitude_ratio(
    residual: Float[Array, "B ... D"], previous: Float[Array, "B ... D"]
) -> Float[Array, ""]:
    """Return the mean ratio of a token's residual norm to that of the previous step."""
    norm = jnp.linalg.norm(residual.astype(jnp.float32), axis=-1)
    previous_norm = jnp.linalg.norm(previous.astype(jnp.float32), axis=-1)
    return jnp.mean(norm / (previous_norm + 1e-8))


def interpolate_ratios(ratios: Sequence[float], num_steps: int) -> Float[np.ndarray, "steps"]:
    """Return the curve for a different number of steps, by the nearest measured step."""
    measured = np.asarray(ratios, np.float64)
    if num_steps == 1:
        return measured[-1:]
    spacing = (len(measured) - 1) / (num_steps - 1)
    return measured[np.round(np.arange(num_steps) * spacing).astype(int)]


def schedule_steps(
    ratios: Sequence[float] | np.ndarray,
    threshold: float,
    retention: float,
    max_skips: int,
    always_computed: Collection[int] = (),
) -> tuple[bool, ...]:
    """Return for each step whether it is computed.

    The error of a skipped step is |1 - product of the ratios since the last computed one|. Errors
    accumulate until a step is computed; a step is skipped while their sum is at most `threshold`.

    Args:
      ratios: ratio of each step's residual to that of the previous step, one per step.
      retention: fraction of the steps, from the first, that are always computed; the very first
        always is.
      max_skips: maximum number of skipped steps in a row.
      always_computed: indices of additional steps to compute.
    """
    retained = max(int(retention * len(ratios) + 0.5), 1)
    computed = []
    product = 1.0
    error = 0.0
    skips = 0
    for step, ratio in enumerate(ratios):
        if step >= retained:
            product *= float(ratio)
            skips += 1
            error += abs(1 - product)
        if step < retained or step in always_computed or error > threshold or skips > max_skips:
            computed.append(True)
            product = 1.0
            error = 0.0
            skips = 0
        else:
            computed.append(False)
    return tuple(computed)
