"""Rankings: what holds for any scores, and where each stage uses them."""

import math

import numpy as np
import pytest
from ml_collections import ConfigDict

from pav_jax import defaults, recipe
from pav_jax.candidates.ranking import METHODS, Ranking, average_places, dominates, fronts, rank
from pav_jax.errors import BadInput
from pav_jax.evolve.evolve import evolve
from pav_jax.evolve.proposers import Proposer
from pav_jax.evolve.select import select
from pav_jax.records import Candidate
from pav_jax.rewards.suite import HELD_OUT
from tests.fakes import PROMPTS, Generator, Suite, config


def tables(count=50):
    """(values [N, D], positive weights [D]) with many ties: of few, of many and of one reward."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        n, d = rng.integers(1, 12), rng.integers(1, 5)
        yield np.round(rng.normal(0, 2, (n, d)), int(rng.integers(0, 3))), rng.uniform(0.1, 3, d)


# -------------------------------------------------------------------------------------- the methods


@pytest.mark.parametrize("method", METHODS)
def test_who_is_dominated_never_ranks_above_its_dominator(method):
    for values, weights in tables():
        standing = rank(values, method, weights)
        for i, j in np.ndindex(len(values), len(values)):
            if dominates(values[i], values[j]):
                assert standing[i] < standing[j]


@pytest.mark.parametrize("method", ["pareto", "average_rank"])
def test_rescaling_a_reward_by_an_increasing_function_changes_nothing(method):
    for values, weights in tables():
        other = values.copy()
        for d, bend in zip(
            range(values.shape[1]),
            (np.exp, np.cbrt, lambda x: 1e3 * x - 7, np.arctan),
            strict=False,
        ):
            other[:, d] = bend(values[:, d])
        np.testing.assert_array_equal(rank(other, method, weights), rank(values, method, weights))


def test_fronts_are_those_of_the_definition():
    for values, _ in tables():
        left, number, found = set(range(len(values))), 0, fronts(values)
        while left:  # peeled off one by one
            front = {i for i in left if not any(dominates(values[j], values[i]) for j in left)}
            assert {i for i in range(len(values)) if found[i] == number} == front
            left, number = left - front, number + 1


def test_average_places_are_scipys_ranks():
    stats = pytest.importorskip("scipy.stats")
    for values, weights in tables(10):
        expected = stats.rankdata(-values, axis=0) @ (weights / weights.sum())
        np.testing.assert_allclose(average_places(values, weights), expected)


@pytest.mark.parametrize("method", METHODS)
def test_a_missing_value_ranks_last_and_moves_no_other(method):
    for values, weights in tables(10):
        broken = np.vstack([values, np.full((1, values.shape[1]), 99.0)])
        broken[-1, 0] = np.nan
        standing = rank(broken, method, weights)
        assert standing[-1] == math.inf
        np.testing.assert_array_equal(standing[:-1], rank(values, method, weights))


def test_a_negative_weight_makes_low_better():
    values = np.asarray([[1.0, 5.0], [1.0, 2.0]])
    assert all(rank(values, method, np.asarray([1.0, -1.0])).argmin() == 1 for method in METHODS)


@pytest.mark.parametrize("method", METHODS)
def test_whoever_keeps_the_floors_comes_before_whoever_does_not(method):
    rng = np.random.default_rng(1)
    for values, _ in tables(20):
        scores = [
            {"AES": a, "TVA": t, "FAITH": f}
            for a, t, f in zip(
                values[:, 0], values[:, -1], rng.uniform(0, 1, len(values)), strict=True
            )
        ]
        ranking = Ranking(method, {"AES": 1.0, "TVA": 1.0}, {"FAITH": 0.5})
        places = ranking.places(scores, [s["AES"] + s["TVA"] for s in scores])
        order = sorted(range(len(scores)), key=lambda i: (places[i], i))
        keeps = [scores[i]["FAITH"] >= 0.5 for i in order]
        assert keeps == sorted(keeps, reverse=True)
        # among those that keep them, the others do not count: constrained domination
        kept = [scores[i] for i in order if scores[i]["FAITH"] >= 0.5]
        if method == "pareto":
            alone = ranking.places(kept, [s["AES"] + s["TVA"] for s in kept])
            assert alone == [places[i] for i in order[: len(kept)]]


# --------------------------------------------------------------------------------------- the stages


def candidate(refined, aes, tva, faith=1.0, prompt="a dog", **more):
    scores = {"AES": aes, "TVA": tva, "FAITH": faith} | more
    return Candidate(
        f"key of {refined}", prompt, refined, int(refined != prompt), 0, (), "local", 1, scores
    )


ROWS = [
    candidate("a dog", 0.0, 0.0),
    candidate("one-sided", 9.0, 0.1),
    candidate("its better", 9.5, 0.2),
    candidate("even", 3.0, 2.95),
    candidate("even, twin", 2.9, 3.0),
    candidate("third", 2.0, 2.0),
    candidate("last", 1.0, 1.5),
]


@pytest.mark.parametrize(
    "method, best", [("sum", "its better"), ("pareto", "its better"), ("average_rank", "even")]
)
def test_selection_goes_by_its_ranking(method, best):
    def chosen(**options):
        settings = config(select__ranking=method, **{f"select__{k}": v for k, v in options.items()})
        return [
            p.refined
            for p in select(settings, ROWS + [candidate("unfaithful", 99.0, 99.0, 0.1)], Suite())
        ]

    assert chosen(floors={"FAITH": 0.5}) == [best] and chosen(floors={}) == ["unfaithful"]
    assert chosen(floors={"FAITH": 0.5}, thresholds={"TVA": 1.0}) == ["even"]
    assert chosen(floors={"FAITH": 0.5}, pareto=True) == [best]


def shown_to_proposers(tmp_path, suite, **options):
    seen = {}

    class Watching(Proposer):
        name = "watching"

        def propose(self, requests):
            seen.update({(r.prompt, r.round): r.history for r in requests})
            return [[f"{r.prompt} {r.round} {i}" for i in range(r.n)] for r in requests]

    pool = evolve(
        config(**{f"evolve__{k}": v for k, v in options.items()}),
        PROMPTS,
        Watching(),
        Generator(),
        suite,
        tmp_path,
    )
    return seen, pool


@pytest.mark.parametrize("method", METHODS)
def test_proposers_are_shown_the_best_of_the_ranking_and_no_held_out_score(tmp_path, method):
    class Watched(Suite):
        def score(self, videos, prompts, refined=None):
            return super().score(videos, prompts, refined) | {
                HELD_OUT + "VQ": np.full(len(videos), np.nan)
            }

    seen, pool = shown_to_proposers(tmp_path, Watched(), ranking=method)
    assert not any(c.error for c in pool)  # a held-out judge without an answer marks nobody
    assert not any(
        name.startswith(HELD_OUT) for rows in seen.values() for _, scores in rows for name in scores
    )
    ranking = Ranking(method, Suite.weights)
    for prompt in PROMPTS:
        rows = [c for c in pool if c.prompt == prompt and c.round == 1]
        sums = [float(np.float32(c.scores["AES"]) + np.float32(c.scores["TVA"])) for c in rows]
        places = ranking.places([c.scores for c in rows], sums)
        best = [
            c.refined
            for _, c in sorted(zip(places, rows, strict=True), key=lambda row: (row[0], row[1].key))
        ]
        assert [text for text, _ in seen[prompt, 2]] == [prompt, *best[:2]]


def test_evolution_shows_first_who_keeps_the_floors_where_some_are_asked_for(tmp_path):
    class Partly(Suite):
        floors = {"FAITH": 0.5}

        def score(self, videos, prompts, refined=None):
            scores = super().score(videos, prompts, refined)
            unfaithful = np.asarray([r.endswith("0") for r in refined])
            return scores | {
                "AES": scores["AES"] + 9 * unfaithful,
                "FAITH": np.where(unfaithful, 0.1, 1.0),
            }

    for name, options, first in (
        ("sum", {}, True),
        ("floored", dict(floors={"FAITH": 0.5}), False),
        ("pareto", dict(ranking="pareto"), False),
        ("free", dict(ranking="pareto", floors={}), True),
    ):
        seen, _ = shown_to_proposers(tmp_path / name, Partly(), **options)
        assert all(
            rows[1][0].endswith("0") == first for (_, round), rows in seen.items() if round == 2
        ), name


def test_each_round_tells_of_signs_that_rewards_are_gamed(tmp_path, caplog):
    class Wordy(Proposer):
        name = "wordy"

        def propose(self, requests):
            return [
                [f"{r.prompt} {i} " + "word " * 8 * r.round for i in range(r.n)] for r in requests
            ]

    evolve(config(), PROMPTS, Wordy(), Generator(), Suite(), tmp_path)
    (line,) = (r.getMessage() for r in caplog.records if "reward-hacking" in r.getMessage())
    assert (
        line.startswith("evolve, round 2: reward-hacking warnings: rewrites have")
        and "\n" not in line
    )


@pytest.mark.parametrize("section", ["evolve", "select", "prefer"])
def test_an_unknown_name_is_refused_before_any_video_is_made(section, tmp_path):
    settings = defaults.get_config()
    settings[section].ranking = "best"
    with pytest.raises(
        BadInput,
        match=f"{section}.ranking='best' is not known; choose from sum, pareto, average_rank",
    ):
        recipe.run(settings, tmp_path)
    with pytest.raises(BadInput, match=f"{section}.ranking='best'"):
        Ranking.from_config(settings, section, Suite())
    assert Ranking.from_config(ConfigDict({section: {}}), section, Suite()).method == "sum"
