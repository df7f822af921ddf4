import logging
import math

import pytest

from pav_jax.errors import BadInput
from pav_jax.evolve.select import select
from pav_jax.records import Candidate, PromptPair
from pav_jax.storage.records import read_jsonl
from tests.fakes import FakeSuite, make_config


def candidate(refined, aes, tva=0.0, faith=1.0, prompt="a dog", error=None):
    scores = {"AES": aes, "TVA": tva, "FAITH": faith}
    round = int(refined != prompt)
    key = f"key of {refined}"
    return Candidate(key, prompt, refined, round, 0, (), "local", 1, scores, None, error)


OWN = candidate("a dog", 1.0, 1.0)


def selected(*candidates, suite=None, **options):
    config = make_config(**{f"select__{name}": value for name, value in options.items()})
    return [p.refined for p in select(config, [OWN, *candidates], suite or FakeSuite())]


def test_select_best_by_weighted_sum():
    rows = [
        candidate("sharp dog", 3.0, 0.0),
        candidate("true dog", 1.5, 2.0),
        candidate("dull dog", 0.0),
    ]
    assert selected(*rows) == ["true dog"]
    assert selected(*rows, weights={"AES": 1.0}) == ["sharp dog"]
    config = make_config(evolve__weights={"AES": 1.0, "TVA": 0.0})
    assert select(config, [OWN, *rows], FakeSuite()) == [PromptPair("a dog", "sharp dog")]


def test_select_min_gain():
    assert selected() == []
    assert selected(candidate("worse", 0.5, 1.0)) == []
    assert selected(candidate("equal", 1.0, 1.0)) == []
    assert selected(candidate("a little better", 1.25, 1.0), min_gain=0.25) == []
    assert selected(candidate("better", 1.5, 1.0), min_gain=0.25) == ["better"]


def test_select_thresholds_constraints_and_words():
    best = candidate("unfaithful", 9.0, 9.0, 0.4)
    long = "good " * 5 + "dog"
    second = candidate(long, 2.0, 2.0, 0.7)
    assert selected(best, second, constraints={"FAITH": 0.7}) == [long]
    assert selected(best, second, constraints={"FAITH": 0.7}, max_words=5) == []
    assert selected(best, second, constraints={}, thresholds={"AES": 2.0}) == ["unfaithful"]
    assert selected(second, thresholds={"AES": 2.0}) == []  # must be above
    assert selected(second, thresholds={"MPS": 1.0}) == []  # not measured
    assert selected(second, thresholds={"MPS": None}) == [long]


def test_select_minima_of_suite():
    rows = [candidate("unfaithful", 9.0, 9.0, 0.4), candidate("good dog", 2.0, 2.0, 0.7)]
    suite = FakeSuite()
    suite.constraints = {"FAITH": 0.9}
    suite.thresholds = {"AES": 10.0}
    assert selected(*rows, suite=suite) == []
    assert selected(*rows, suite=suite, thresholds={}, constraints={}) == ["unfaithful"]


@pytest.mark.parametrize(
    "failed",
    [
        candidate("nan", math.nan, 5.0, error="no score: AES"),
        candidate("failed", 9.0, error="x"),
        candidate("without an error", math.nan),
    ],
)
def test_select_failed_candidate(failed):
    assert selected(failed) == []
    assert selected(failed, candidate("fine", 2.0, 2.0)) == ["fine"]


@pytest.mark.parametrize(
    "method, best", [("sum", "its better"), ("pareto", "its better"), ("average_rank", "even")]
)
def test_select_ranking(method, best):
    own = candidate("a dog", 0.0, 0.0)
    rows = [
        candidate("one-sided", 9.0, 0.1),
        candidate("its better", 9.5, 0.2),
        candidate("even", 3.0, 2.95),
        candidate("even, twin", 2.9, 3.0),
        candidate("third", 2.0, 2.0),
        candidate("last", 1.0, 1.5),
        candidate("unfaithful", 99.0, 99.0, 0.1),
    ]

    def chosen(**options):
        options = {f"select__{name}": value for name, value in options.items()}
        config = make_config(select__ranking=method, **options)
        return [p.refined for p in select(config, [own, *rows], FakeSuite())]

    assert chosen(constraints={"FAITH": 0.5}) == [best]
    assert chosen(constraints={}) == ["unfaithful"]
    assert chosen(constraints={"FAITH": 0.5}, thresholds={"TVA": 1.0}) == ["even"]


def test_select_unknown_ranking():
    with pytest.raises(BadInput) as caught:
        selected(ranking="best")
    assert caught.value.field == "select.ranking"


def test_select_log_and_file(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    rows = [OWN, candidate("good dog", 2.0, 2.0)]
    for i, (aes, faith) in enumerate([(0.0, 1.0), (5.0, 0.1), (5.0, 0.2)]):
        prompt = f"prompt {i}"
        rows.append(candidate(prompt, 1.0, prompt=prompt))
        rows.append(candidate(f"rewrite {i}", aes, 0.0, faith, prompt))
    rows.append(candidate("alone", 1.0, prompt="alone"))
    rows.append(candidate("lost", math.nan, prompt="lost", error="no score: AES"))
    config = make_config(select__constraints={"FAITH": 0.5})
    pairs = select(config, rows, FakeSuite(), tmp_path)
    assert pairs == [PromptPair("a dog", "good dog")]
    assert read_jsonl(tmp_path / "sft_pairs.jsonl", PromptPair) == pairs
    for part in (
        "1 of 6",
        "2 dropped: infeasible",
        "1 dropped: gain",
        "1 dropped: no rewrite;",
        "1 dropped: the user's prompt has no score",
    ):
        assert part in caplog.text
