import numpy as np
import pytest
from scipy import stats

from pav_jax.trust import measures

NAN = float("nan")


def test_auc_is_the_chance_of_ranking_right():
    assert measures.auc(np.array([3.0, 4.0]), np.array([1.0, 2.0, NAN])) == 1.0
    assert measures.auc(np.array([1.0, 1.0]), np.array([1.0])) == 0.5
    a, b = np.random.default_rng(0).standard_normal((2, 50)).round(1)
    assert measures.auc(a, b) == pytest.approx(stats.mannwhitneyu(a, b).statistic / 2500)
    assert np.isnan(measures.auc(np.array([NAN]), np.array([1.0])))


def test_the_noise_floor_tells_seeds_from_prompts():
    rng = np.random.default_rng(0)
    values = 3 * rng.standard_normal((4000, 1)) + 0.5 * rng.standard_normal((4000, 3))
    assert measures.noise_floor(values) == pytest.approx((0.5, 3.0), rel=0.05)
    assert measures.noise_floor(0.5 * rng.standard_normal((4000, 3)))[1] < 0.1
    assert measures.noise_floor(np.array([[1.0, 3.0], [NAN, 2.0]])) == (
        pytest.approx(2**0.5),
        pytest.approx(NAN, nan_ok=True),
    )


def test_severity_correlations_are_spearmans():
    rows = np.array([[5.0, 4, 3, 2, 1], [1, 1, 1, 1, 1], [1, 3, 2, 2, 5], [NAN, 1, 2, 3, 4]])
    found = measures.severity_correlations(rows, (0, 1, 2, 3, 4))
    assert found[:3] == pytest.approx(
        [-1, 0, stats.spearmanr(rows[2], range(5)).statistic]
    ) and np.isnan(found[3])
    chance = measures.chance_correlations(rows, (0, 1, 2, 3, 4), 500, np.random.default_rng(0))
    assert len(chance) == 500 and abs(chance.mean()) < 0.05
    assert (
        len(measures.chance_correlations(rows[3:], (0, 1, 2, 3, 4), 5, np.random.default_rng(0)))
        == 0
    )


def test_scores_are_compared_where_both_are_known():
    a, b = np.array([1.0, 2, 3, NAN, 5]), np.array([2.0, 1, 5, 9, 9])
    matrix = measures.correlation_matrix({"A": a, "B": b, "C": np.ones(5)})
    assert matrix["A"]["B"] == matrix["B"]["A"] == pytest.approx(0.8) and matrix["A"][
        "A"
    ] == pytest.approx(1)
    assert np.isnan(matrix["A"]["C"])


def test_length_is_compared_among_the_rewrites_of_one_prompt():
    words, scores = np.array([1.0, 2, 3, 11, 12, 13]), np.array([9.0, 8, 7, 99, 98, 97])
    assert measures.spearman(words, scores) > 0
    assert measures.grouped_correlation("aaabbb", words, scores) == pytest.approx(-1)
    assert np.isnan(measures.grouped_correlation("ab", words[:2], scores[:2]))


def test_saturation_counts_both_ends():
    values = np.array([0.0, 0.001, 0.5, 1.0, NAN])
    assert measures.saturation(values, (0.5, 1.0)) == ((0.5, 0.25), (0.75, 0.25))
    assert measures.saturation(np.ones(3), None) == ((1.0, 1.0), None)
    assert np.isnan(measures.saturation(np.array([NAN]), None)[0]).all()
