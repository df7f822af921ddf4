import numpy as np
import pytest
from scipy import linalg

from pav_jax.errors import BadInput
from pav_jax.evaluate.frechet import frechet_distance

RNG = np.random.default_rng(0)
MIX = RNG.normal(size=(6, 6))


def features(n, shift=0.0, scale=1.0):
    return shift + scale * RNG.normal(size=(n, 6)) @ MIX


def by_matrix_root(a, b):
    A, B = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = linalg.sqrtm(A @ B)
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(A + B - 2 * root.real)


@pytest.mark.parametrize("n, m", [(40, 30), (40, 4), (5, 60)])
def test_it_is_the_formula_with_a_root_of_a_matrix(n, m):
    a, b = features(n), features(m, 0.5, 2.0)
    assert frechet_distance(a, b) == pytest.approx(by_matrix_root(a, b), rel=1e-4)


@pytest.mark.parametrize("n", [3, 6, 50])
def test_it_is_symmetric_and_nothing_between_a_set_and_itself(n):
    a, b = features(n), features(n + 4, 1.0)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9)
    assert frechet_distance(a, a[::-1]) < 1e-9 < 0.1 < frechet_distance(a, b)


def test_means_apart_by_d_are_d_squared_apart_and_it_is_float64():
    a = 1e4 + features(20)
    assert frechet_distance(
        a.astype(np.float64), a + np.array([3, 0, 0, 0, 4, 0])
    ) == pytest.approx(25, rel=1e-6)


def test_sets_without_spread_or_numbers_are_refused():
    with pytest.raises(BadInput, match="a set of 1 videos"):
        frechet_distance(features(1), features(5))
    with pytest.raises(BadInput, match="NaN"):
        frechet_distance(features(5), np.full((3, 6), np.nan))
