import numpy as np
import pytest
from scipy import linalg

from pav_jax.errors import BadInput
from pav_jax.evaluate.frechet import frechet_distance

RNG = np.random.default_rng(0)
MIXING = RNG.normal(size=(6, 6))


def features(n, shift=0.0, scale=1.0):
    return shift + scale * RNG.normal(size=(n, 6)) @ MIXING


def distance_with_matrix_root(a, b):
    A = np.cov(a, rowvar=False)
    B = np.cov(b, rowvar=False)
    root = linalg.sqrtm(A @ B)
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(A + B - 2 * root.real)


@pytest.mark.parametrize("n, m", [(40, 30), (40, 4), (5, 60)])
def test_frechet_distance_matches_matrix_root(n, m):
    a = features(n)
    b = features(m, 0.5, 2.0)
    assert frechet_distance(a, b) == pytest.approx(distance_with_matrix_root(a, b), rel=1e-4)


@pytest.mark.parametrize("n", [3, 6, 50])
def test_frechet_distance_is_symmetric(n):
    a = features(n)
    b = features(n + 4, 1.0)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9)
    assert frechet_distance(a, a[::-1]) < 1e-9 < 0.1 < frechet_distance(a, b)


def test_frechet_distance_shifted_mean():
    a = 1e4 + features(20)
    shifted = a + np.array([3, 0, 0, 0, 4, 0])
    assert frechet_distance(a, shifted) == pytest.approx(25, rel=1e-6)


@pytest.mark.parametrize("a", [features(1), np.full((3, 6), np.nan)])
def test_frechet_distance_invalid_features(a):
    with pytest.raises(BadInput) as error:
        frechet_distance(a, features(5))
    assert error.value.source == "features"
