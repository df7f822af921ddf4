import math

import numpy as np
import pytest
from scipy import stats

from pav_jax.candidates.options import RANKINGS
from pav_jax.candidates.ranking import (
    Ranking,
    average_ranks,
    dominates,
    pareto_fronts,
    rank_values,
)
from pav_jax.errors import BadInput


def random_scores(count=50):
    """Yield (values [N, D], positive weights [D]) of few candidates, with many ties."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        n = rng.integers(1, 12)
        d = rng.integers(1, 5)
        yield np.round(rng.normal(0, 2, (n, d)), int(rng.integers(0, 3))), rng.uniform(0.1, 3, d)


@pytest.mark.parametrize("method", RANKINGS)
def test_rank_values_dominated_is_worse(method):
    for values, weights in random_scores():
        ranks = rank_values(values, method, weights)
        for i, j in np.ndindex(len(values), len(values)):
            if dominates(values[i], values[j]):
                assert ranks[i] < ranks[j]


@pytest.mark.parametrize("method", ["pareto", "average_rank"])
def test_rank_values_rescaled_rewards(method):
    functions = (np.exp, np.cbrt, lambda x: 1e3 * x - 7, np.arctan)
    for values, weights in random_scores():
        rescaled = values.copy()
        for d, function in zip(range(values.shape[1]), functions, strict=False):
            rescaled[:, d] = function(values[:, d])
        np.testing.assert_array_equal(
            rank_values(rescaled, method, weights), rank_values(values, method, weights)
        )


@pytest.mark.parametrize("method", RANKINGS)
def test_rank_values_missing_score(method):
    for values, weights in random_scores(10):
        extended = np.vstack([values, np.full((1, values.shape[1]), 99.0)])
        extended[-1, 0] = np.nan
        ranks = rank_values(extended, method, weights)
        assert ranks[-1] == math.inf
        np.testing.assert_array_equal(ranks[:-1], rank_values(values, method, weights))


@pytest.mark.parametrize("method", RANKINGS)
def test_rank_values_negative_weight(method):
    values = np.asarray([[1.0, 5.0], [1.0, 2.0]])
    assert rank_values(values, method, np.asarray([1.0, -1.0])).argmin() == 1


def test_pareto_fronts_definition():
    for values, _ in random_scores():
        fronts = pareto_fronts(values)
        remaining = set(range(len(values)))
        number = 0
        while remaining:
            front = {
                i for i in remaining if not any(dominates(values[j], values[i]) for j in remaining)
            }
            assert {i for i in range(len(values)) if fronts[i] == number} == front
            remaining -= front
            number += 1


def test_average_ranks_equal_scipy():
    for values, weights in random_scores(10):
        expected = stats.rankdata(-values, axis=0) @ (weights / weights.sum())
        np.testing.assert_allclose(average_ranks(values, weights), expected)


@pytest.mark.parametrize("method", RANKINGS)
def test_ranking_keys_feasible_first(method):
    rng = np.random.default_rng(1)
    for values, _ in random_scores(20):
        scores = [
            {"AES": row[0], "TVA": row[-1], "FAITH": faith}
            for row, faith in zip(values, rng.uniform(0, 1, len(values)), strict=True)
        ]
        ranking = Ranking(method, {"AES": 1.0, "TVA": 1.0}, {"FAITH": 0.5})
        keys = ranking.keys(scores, [s["AES"] + s["TVA"] for s in scores])
        order = sorted(range(len(scores)), key=lambda i: (keys[i], i))
        feasible = [scores[i]["FAITH"] >= 0.5 for i in order]
        assert feasible == sorted(feasible, reverse=True)
        # infeasible candidates do not change the keys of feasible ones: constrained domination
        rows = [scores[i] for i in order if scores[i]["FAITH"] >= 0.5]
        if method == "pareto":
            alone = ranking.keys(rows, [s["AES"] + s["TVA"] for s in rows])
            assert alone == [keys[i] for i in order[: len(rows)]]


def test_ranking_unknown_method():
    with pytest.raises(BadInput) as caught:
        Ranking("best", {"AES": 1.0})
    assert caught.value.field == "ranking"
