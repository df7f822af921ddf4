import numpy as np
import scipy.stats

from pav_jax.candidates.statistics import (
    column_mean,
    paired_intervals,
    rounded,
    seed_mean,
    summary,
    win_rate,
)


def test_seed_mean_missing_values():
    values = np.asarray([[[1.0], [np.nan]], [[2.0], [4.0]], [[np.nan], [np.nan]]])
    means = seed_mean(values)
    assert means[:2, 0].tolist() == [1.0, 3.0]
    assert np.isnan(means[2, 0])
    assert column_mean(means).tolist() == [2.0]


def test_paired_intervals_match_scipy():
    rng = np.random.default_rng(3)
    for n, shift in ((40, 0.3), (100, 0.0), (200, -1.0)):
        difference = rng.normal(shift, 1.0, (n, 2))
        ours = paired_intervals(difference, resamples=10_000)
        for m in range(2):
            theirs = scipy.stats.bootstrap(
                (difference[:, m],), np.mean, n_resamples=10_000, method="percentile", rng=4
            )
            interval = theirs.confidence_interval
            np.testing.assert_allclose(ours[m, 0], difference[:, m].mean())
            # two random sets of resamples: their quantiles differ by a few hundredths of the width
            tolerance = 0.05 * (interval.high - interval.low)
            np.testing.assert_allclose(ours[m, 1:], [interval.low, interval.high], atol=tolerance)


def test_paired_intervals_are_deterministic():
    difference = np.random.default_rng(0).normal(size=(30, 3))
    assert np.array_equal(paired_intervals(difference), paired_intervals(difference))


def test_paired_intervals_missing_prompt():
    rng = np.random.default_rng(1)
    difference = rng.normal(size=(50, 2))
    incomplete = difference.copy()
    incomplete[7, 0] = np.nan
    complete_rows = paired_intervals(difference)
    partial = paired_intervals(incomplete)
    assert np.array_equal(complete_rows[1], partial[1])
    np.testing.assert_allclose(partial[0, 0], np.delete(difference[:, 0], 7).mean())
    assert partial[0, 1] < partial[0, 0] < partial[0, 2]


def test_paired_intervals_no_values():
    assert np.isnan(paired_intervals(np.full((5, 1), np.nan))).all()


def test_win_rate_ties():
    assert win_rate(np.asarray([1.0, 2.0, 3.0, np.nan]), np.asarray([1.0, 1.0, 4.0, 0.0])) == 1 / 3


def test_rounded():
    assert rounded(0.1 + 0.2) == 0.3
    assert str(rounded(-1e-9)) == "0.0"
    assert rounded(float("nan")) is None


def test_summary_fields():
    rng = np.random.default_rng(2)
    values = {name: rng.normal(size=(20, 3)) for name in ("original", "base", "sft", "dpo_1")}
    result = summary(
        values,
        ["AES", "overall", "words"],
        {"delta": "original", "delta_vs_sft": "sft"},
        resamples=100,
    )
    entry = result["dpo_1"]
    assert set(entry) == {"scores", "overall", "words", "win_rate", "delta", "delta_vs_sft"}
    assert set(entry["scores"]) == {"AES"}
    mean, low, high = entry["delta"]["overall"]
    assert low < mean < high
    assert result["original"]["delta"]["AES"] == [0.0, 0.0, 0.0]
