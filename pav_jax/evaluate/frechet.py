"""The Frechet distance of two sets of features, each taken for a normal distribution (Dowson and
Landau 1982):

    |mean_a - mean_b|^2 + trace(A + B - 2 (A B)^(1/2)),   A and B the covariances.

With centred features X and Y, A = X'X and B = Y'Y, the last trace is the sum of the singular values
of X Y', which has no square root of a matrix that is singular wherever there are fewer samples than
features, and never a complex part.
"""

import numpy as np
from jaxtyping import Float

from pav_jax.errors import BadInput


def frechet_distance(a_NxK: Float[np.ndarray, "N K"], b_MxK: Float[np.ndarray, "M K"]) -> float:
    """At least 0, and 0 for the same set, in float64. With features of I3D this is FVD.

    Raises:
      BadInput: a set of fewer than two, or numbers that are not finite.
    """
    (mean_a, x), (mean_b, y) = _centred(a_NxK), _centred(b_MxK)
    common = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    return max(
        float(((mean_a - mean_b) ** 2).sum() + (x**2).sum() + (y**2).sum() - 2 * common), 0.0
    )


def _centred(features_NxK: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(mean, X [min(N, K), K] with the unbiased covariance X'X)."""
    x = np.asarray(features_NxK, np.float64)
    if len(x) < 2:
        raise BadInput(
            f"a set of {len(x)} videos has no spread; a Frechet distance needs at least 2, and"
            " hundreds to mean something"
        )
    if not np.isfinite(x).all():
        raise BadInput("the features hold NaN or infinity; a Frechet distance needs finite ones")
    mean = x.mean(0)
    x = (x - mean) / np.sqrt(len(x) - 1)
    return mean, np.linalg.qr(x, mode="r") if len(x) > x.shape[1] else x
