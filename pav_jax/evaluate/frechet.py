"""Frechet distance between two sets of features, modelled as normal distributions.

With covariances A and B it is (Dowson and Landau 1982)

    |mean_a - mean_b|^2 + trace(A + B - 2 (A B)^(1/2)).

Let X and Y be the centred features, so that A = X'X and B = Y'Y. The trace of (A B)^(1/2) is then
the sum of the singular values of X Y'. This avoids the square root of a matrix, which is singular
with fewer samples than features, and never yields a complex result.
"""

import numpy as np
from jaxtyping import Float

from pav_jax.errors import BadInput


def frechet_distance(a_NxK: Float[np.ndarray, "N K"], b_MxK: Float[np.ndarray, "M _"]) -> float:
    """Compute the distance in float64; with I3D features it is the FVD.

    Args:
      a_NxK: N feature vectors of size K.
      b_MxK: M feature vectors of size K.

    Returns:
      The squared distance, at least 0, in squared units of the features; 0 for equal sets.

    Raises:
      BadInput: a set has fewer than two vectors, or a value is not finite.
    """
    mean_a, x = _centre(a_NxK)
    mean_b, y = _centre(b_MxK)
    shared = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    distance = ((mean_a - mean_b) ** 2).sum() + (x**2).sum() + (y**2).sum() - 2 * shared
    return max(float(distance), 0.0)


def _centre(
    features_NxK: Float[np.ndarray, "N K"],
) -> tuple[Float[np.ndarray, "K"], Float[np.ndarray, "R K"]]:
    """Return (mean, X), where X has R = min(N, K) rows and X'X is the unbiased covariance."""
    x = np.asarray(features_NxK, np.float64)
    if len(x) < 2:
        raise BadInput(
            f"a set of {len(x)} videos has no covariance; give at least 2 videos, and hundreds for"
            " a meaningful Frechet distance",
            source="features",
        )
    if not np.isfinite(x).all():
        raise BadInput(
            "features contain NaN or infinity; a Frechet distance needs finite values",
            source="features",
        )
    mean = x.mean(0)
    x = (x - mean) / np.sqrt(len(x) - 1)
    if len(x) > x.shape[1]:
        return mean, np.asarray(np.linalg.qr(x, mode="r"))
    return mean, x
