import itertools
import math

import numpy as np
import pytest
from scipy import stats

from pav_jax.report.vote_statistics import Verdict, krippendorff_alpha, summary, wilson_interval
from pav_jax.report.vote_table import print_votes

_ = None
# https://en.wikipedia.org/wiki/Krippendorff%27s_alpha#A_computational_example
THREE_CODERS = [
    [_, _, _, _, _, 3, 4, 1, 2, 1, 1, 3, 3, _, 3],
    [1, _, 2, 1, 3, 3, 4, 3, _, _, _, _, _, _, _],
    [_, _, 2, 1, 3, 4, 4, _, 2, 1, 1, 3, 3, _, 4],
]
# Krippendorff, "Computing Krippendorff's Alpha-Reliability", 2011, section C
FOUR_OBSERVERS = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, _, _, _],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, _, 3],
    [_, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, _],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, _],
]


def make_verdicts(points, systems=("b", "a"), set="near", prompt="p"):
    """One verdict for each voter, 0 and on."""
    return [
        Verdict(systems, set, prompt, str(i), value, None if value == 0.5 else value > 0.5)
        for i, value in enumerate(points)
    ]


@pytest.mark.parametrize(("data", "alpha"), [(THREE_CODERS, 0.811), (FOUR_OBSERVERS, 0.849)])
def test_krippendorff_alpha_published_examples(data, alpha):
    units = [[v for v in unit if v is not None] for unit in zip(*data, strict=True)]
    assert krippendorff_alpha(units) == pytest.approx(alpha, abs=5e-4)


def test_krippendorff_alpha_extremes():
    assert krippendorff_alpha([[1, 1], [0, 0, 0], [0.5]]) == 1
    assert krippendorff_alpha([[1, 0], [0, 1]]) < 0
    assert math.isnan(krippendorff_alpha([[1, 1], [1, 1]]))
    assert math.isnan(krippendorff_alpha([[1], [0]]))


@pytest.mark.parametrize(("wins", "count"), [(0, 5), (3, 7), (10, 10), (61, 100)])
def test_wilson_interval_of_wins_and_losses(wins, count):
    expected = stats.binomtest(wins, count).proportion_ci(method="wilson")
    mean, low, high = wilson_interval([1.0] * wins + [0.0] * (count - wins))
    assert (mean, low, high) == pytest.approx((wins / count, expected.low, expected.high))


def test_wilson_interval_covers_the_true_rate():
    """Voters agree on easy prompts: votes are not independent, prompts are."""
    random = np.random.default_rng(0)
    num_covered = 0
    for _ in range(400):
        rate_N = random.beta(1.4, 0.6, size=30)  # each prompt's own, with the mean 0.7
        votes_NxV = random.random((30, 4)) < rate_N[:, None]
        _, low, high = wilson_interval(votes_NxV.mean(axis=1).tolist())
        num_covered += low <= 0.7 <= high
    assert num_covered / 400 > 0.94


def test_summary_counts_each_prompt_once():
    verdicts = make_verdicts([1, 1, 1, 1, 1, 1]) + make_verdicts([0, 0.5], prompt="q")
    (row,) = summary(verdicts, ["a", "b"])["pairs"]
    assert row["win_rate"][0] == pytest.approx((1 + 0.25) / 2)
    assert (row["wins"], row["ties"], row["losses"], row["voters"]) == (6, 1, 1, 6)


def test_summary_pairs_and_sets(capsys):
    verdicts = list(
        itertools.chain.from_iterable(
            make_verdicts([1.0, 0.5], pair, name)
            for pair in (("b", "a"), ("c", "a"), ("c", "b"))
            for name in ("near", "far")
        )
    )
    result = summary(verdicts, ["a", "b", "c"])
    rows = [(*row["systems"], row["set"], row["prompts"]) for row in result["pairs"]]
    assert rows[:3] == [("c", "b", None, 2), ("c", "b", "near", 1), ("c", "b", "far", 1)]
    assert [row[:2] for row in rows[::3]] == [("c", "b"), ("c", "a"), ("b", "a")]
    assert result["left_share"] == 1.0
    print_votes(result)
    output = " ".join(capsys.readouterr().out.split())
    assert "75.0% (" in output and "12 votes of 2 voters; 100% of the decided" in output
