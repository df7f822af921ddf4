import numpy as np
import pytest
from scipy import stats

from pav_jax.trust import measures

NAN = float("nan")
SEVERITIES = (0, 1, 2, 3, 4)


def test_auc():
    assert measures.auc(np.array([3.0, 4.0]), np.array([1.0, 2.0, NAN])) == 1.0
    assert measures.auc(np.array([1.0, 1.0]), np.array([1.0])) == 0.5
    a, b = np.random.default_rng(0).standard_normal((2, 50)).round(1)
    assert measures.auc(a, b) == pytest.approx(stats.mannwhitneyu(a, b).statistic / 2500)
    assert np.isnan(measures.auc(np.array([NAN]), np.array([1.0])))


def test_preferences():
    result = measures.preferences(
        np.array([[2.0, 1.0, 1.0, NAN]]), np.array([[1.0, 2.0, 1.0, 1.0]])
    )
    np.testing.assert_array_equal(result, [[1.0, 0.0, 0.5, NAN]])


def test_noise_and_signal_std():
    rng = np.random.default_rng(0)
    values = 3 * rng.standard_normal((4000, 1)) + 0.5 * rng.standard_normal((4000, 3))
    assert measures.noise_and_signal_std(values) == pytest.approx((0.5, 3.0), rel=0.05)
    assert measures.noise_and_signal_std(0.5 * rng.standard_normal((4000, 3)))[1] < 0.1


def test_noise_and_signal_std_missing_scores():
    over_seeds, between_prompts = measures.noise_and_signal_std(np.array([[1.0, 3.0], [NAN, 2.0]]))
    assert over_seeds == pytest.approx(2**0.5)
    assert np.isnan(between_prompts)


def test_severity_correlations():
    scores = np.array([[5.0, 4, 3, 2, 1], [1, 1, 1, 1, 1], [1, 3, 2, 2, 5], [NAN, 1, 2, 3, 4]])
    correlations = measures.severity_correlations(scores, SEVERITIES)
    expected = stats.spearmanr(scores[2], SEVERITIES).statistic
    assert correlations[:3] == pytest.approx([-1, 0, expected])
    assert np.isnan(correlations[3])


def test_null_correlations():
    scores = np.array([[5.0, 4, 3, 2, 1], [1, 3, 2, 2, 5], [NAN, 1, 2, 3, 4]])
    rng = np.random.default_rng(0)
    null = measures.null_correlations(scores, SEVERITIES, 500, rng)
    assert len(null) == 500
    assert abs(null.mean()) < 0.05
    assert len(measures.null_correlations(scores[2:], SEVERITIES, 5, rng)) == 0


def test_correlation_matrix_missing_and_constant_scores():
    a = np.array([1.0, 2, 3, NAN, 5])
    b = np.array([2.0, 1, 5, 9, 9])
    matrix = measures.correlation_matrix({"A": a, "B": b, "C": np.ones(5)})
    assert matrix["A"]["B"] == matrix["B"]["A"] == pytest.approx(0.8)
    assert matrix["A"]["A"] == pytest.approx(1)
    assert np.isnan(matrix["A"]["C"])


def test_mean_within_group_correlation():
    words = np.array([1.0, 2, 3, 11, 12, 13])
    scores = np.array([9.0, 8, 7, 99, 98, 97])
    assert measures.spearman(words, scores) > 0
    assert measures.mean_within_group_correlation("aaabbb", words, scores) == pytest.approx(-1)
    assert np.isnan(measures.mean_within_group_correlation("ab", words[:2], scores[:2]))


def test_saturation():
    values = np.array([0.0, 0.001, 0.5, 1.0, NAN])
    assert measures.saturation(values, (0.5, 1.0)) == ((0.5, 0.25), (0.75, 0.25))
    assert measures.saturation(np.ones(3), None) == ((1.0, 1.0), None)
    assert np.isnan(measures.saturation(np.array([NAN]), None)[0]).all()
