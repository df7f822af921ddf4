"""Chosen and rejected."""

import logging
import math

import numpy as np
import pytest

from pav_jax.prefer.pairs import describe, make_pairs
from pav_jax.records import Candidate, Preference
from tests.fakes import FakeSuite, make_config


def candidate(refined, value, faith=1.0, prompt="p", error=None):
    return Candidate(
        f"key {refined}",
        prompt,
        refined,
        1,
        0,
        (),
        "sft",
        1,
        {"AES": value, "TVA": 0.0, "FAITH": faith},
        None,
        error,
    )


def pairs(values: dict, suite=None, **options):
    rows = [c if isinstance(c, Candidate) else candidate(name, c) for name, c in values.items()]
    made = make_pairs(
        rows, suite or FakeSuite(), make_config(**{f"prefer__{k}": v for k, v in options.items()})
    )
    return [(p.chosen, p.rejected) for p in made]


def test_make_pairs_margin():
    values = {"c": 3.0, "a": 5.0, "e": 0.0, "b": 4.0, "d": 2.5}
    assert pairs(values, margin=1.4) == [("a", "c"), ("a", "d"), ("a", "e"), ("b", "d"), ("b", "e")]
    assert pairs(values, margin=2.0) == [
        ("a", "d"),
        ("a", "e"),
        ("b", "e"),
    ]  # exactly the margin is not enough
    assert pairs(values, margin=9.0) == [] and pairs({"a": 1.0}) == [] and pairs({}) == []


def test_make_pairs_published_rule():
    rng = np.random.default_rng(0)
    for _ in range(20):
        scores = dict(zip("abcde", rng.normal(0, 2, 5).astype(np.float32).tolist(), strict=True))
        order = sorted(scores, key=scores.get, reverse=True)
        expected = [
            (order[k], other)
            for k in (0, 1)
            if scores[order[k]] > 0.5
            for other in order[k + 1 :]
            if scores[order[k]] - scores[other] > 1.4
        ]
        assert pairs(scores, margin=1.4, thresholds={"AES": 0.5}) == expected


def test_make_pairs_limits_of_chosen():
    values = {
        "best": candidate("best", 5.0, faith=0.2),
        "next": candidate("next", 4.0),
        "last": candidate("last", 0.0, faith=0.1),
    }
    assert pairs(values, constraints={"FAITH": 0.5}) == [("next", "last")]
    assert pairs(values, constraints={}) == [("best", "next"), ("best", "last"), ("next", "last")]
    assert pairs(values, constraints=None) == pairs(values, constraints={})
    assert pairs(values, constraints={}, thresholds={"AES": 4.5}) == [
        ("best", "next"),
        ("best", "last"),
    ]
    long = " ".join(["w"] * 131)
    assert pairs({long: 5.0, "b": 3.0, "c": 0.0}) == [("b", "c")]
    assert pairs({long: 0.0, "b": 3.0}) == [("b", long)]
    suite = FakeSuite()
    suite.thresholds = {"AES": 4.5}
    assert pairs(values, suite) == [("best", "next"), ("best", "last")]


def test_make_pairs_feasible_first():
    values = {
        "best": candidate("best", 4.9, faith=0.2),
        "next": candidate("next", 4.0),
        "last": candidate("last", 3.9),
        "worst": candidate("worst", 3.8, faith=0.1),
    }
    options = dict(constraints={"FAITH": 0.5}, margin=1.0)
    assert pairs(values, **options) == []
    assert pairs(values, **options, feasible_first=True) == [
        ("next", "best"),
        ("next", "worst"),
        ("last", "best"),
        ("last", "worst"),
    ]
    values["best"] = candidate("best", 4.95, faith=0.2)  # more than the margin above "last"
    assert pairs(values, **options, feasible_first=True) == [
        ("next", "best"),
        ("next", "worst"),
        ("last", "worst"),
    ]


@pytest.mark.parametrize(
    "bad",
    [candidate("bad", math.nan, error="no score: AES"), candidate("bad", 99.0, error="broken")],
)
def test_make_pairs_failed_candidate(bad):
    assert pairs({"bad": bad, "a": 5.0, "b": 3.0, "c": 1.0}) == pairs(
        {"a": 5.0, "b": 3.0, "c": 1.0}
    )


def test_make_pairs_within_prompts():
    rows = [
        candidate("a", 5.0, prompt="p"),
        candidate("b", 1.0, prompt="q"),
        candidate("c", 3.5, prompt="p"),
    ]
    assert make_pairs(rows, FakeSuite(), make_config()) == [Preference("p", "a", "c", 1.5)]


def test_make_pairs_order_of_candidates():
    rows = [
        candidate(n, v) for n, v in [("a", 2.0), ("b", 2.0), ("c", 0.0), ("d", 2.0), ("e", 0.0)]
    ]
    assert make_pairs(rows, FakeSuite(), make_config()) == make_pairs(
        rows[::-1], FakeSuite(), make_config()
    )


def test_make_pairs_max_length_difference(caplog):
    caplog.set_level(logging.INFO)
    values = {"one two three four": 5.0, "one two three": 1.0, "one": 0.0}
    assert pairs(values, max_length_difference=0.25) == [("one two three four", "one two three")]
    assert "lengths differ too much" in caplog.text and "gap +1.0" in caplog.text
    assert len(pairs(values)) == 3


def test_describe():
    report = describe([Preference("p", "a b c", "a", 2.0), Preference("p", "a", "a b", 1.0)])
    assert (report.pairs, report.prompts, report.mean_margin) == (2, 1, 1.5)
    assert (report.chosen_words, report.rejected_words, report.word_gap) == (2, 1.5, 0.5)
    assert describe([]).pairs == 0
