"""Which rewrite becomes an example."""

import logging
import math

import pytest

from pav_jax.evolve.select import select
from pav_jax.records import Candidate, PromptPair
from pav_jax.storage.records import read_jsonl
from tests.fakes import Suite, config


def candidate(refined, aes, tva=0.0, faith=1.0, prompt="a dog", error=None):
    return Candidate(
        f"key of {refined}",
        prompt,
        refined,
        int(refined != prompt),
        0,
        (),
        "local",
        1,
        {"AES": aes, "TVA": tva, "FAITH": faith},
        None,
        error,
    )


OWN = candidate("a dog", 1.0, 1.0)


def chosen(*candidates, suite=None, **options):
    settings = config(**{f"select__{k}": v for k, v in options.items()})
    return [p.refined for p in select(settings, [OWN, *candidates], suite or Suite())]


def test_the_best_rewrite_by_the_weighted_sum_is_chosen():
    rows = [
        candidate("sharp dog", 3.0, 0.0),
        candidate("true dog", 1.5, 2.0),
        candidate("dull dog", 0.0),
    ]
    assert chosen(*rows) == ["true dog"]
    assert chosen(*rows, weights={"AES": 1.0}) == ["sharp dog"]
    settings = config(evolve__weights={"AES": 1.0, "TVA": 0.0})
    assert select(settings, [OWN, *rows], Suite()) == [PromptPair("a dog", "sharp dog")]


def test_the_users_own_prompt_is_never_an_example_and_must_be_beaten():
    assert chosen() == [] and chosen(candidate("worse", 0.5, 1.0)) == []
    assert chosen(candidate("equal", 1.0, 1.0)) == []
    assert chosen(candidate("a little better", 1.25, 1.0), min_gain=0.25) == []
    assert chosen(candidate("better", 1.5, 1.0), min_gain=0.25) == ["better"]


def test_thresholds_floors_and_the_word_limit_decide_first():
    best, second = (
        candidate("unfaithful", 9.0, 9.0, 0.4),
        candidate("good " * 5 + "dog", 2.0, 2.0, 0.7),
    )
    assert chosen(best, second, floors={"FAITH": 0.7}) == ["good " * 5 + "dog"]
    assert chosen(best, second, floors={"FAITH": 0.7}, max_words=5) == []
    assert chosen(best, second, floors={}, thresholds={"AES": 2.0}) == ["unfaithful"]
    assert chosen(second, thresholds={"AES": 2.0}) == []  # must be above, not at
    assert chosen(second, thresholds={"MPS": 1.0}) == []  # not measured
    assert chosen(second, thresholds={"MPS": None}) == ["good " * 5 + "dog"]
    suite = Suite()
    suite.constraints, suite.thresholds = {"FAITH": 0.9}, {"AES": 10.0}
    assert chosen(best, second, suite=suite) == []
    assert chosen(best, second, suite=suite, thresholds={}, floors={}) == ["unfaithful"]


@pytest.mark.parametrize(
    "bad",
    [
        candidate("nan", math.nan, 5.0, error="no score: AES"),
        candidate("marked", 9.0, error="x"),
        candidate("unmarked", math.nan),
    ],
)
def test_a_candidate_without_a_score_or_marked_is_never_chosen(bad):
    assert chosen(bad) == []
    assert chosen(bad, candidate("fine", 2.0, 2.0)) == ["fine"]


def test_no_reward_may_fall_where_pareto_is_asked_for():
    rows = [candidate("sharper, less true", 5.0, 0.9), candidate("a bit of both", 1.1, 1.1)]
    assert chosen(*rows) == ["sharper, less true"] and chosen(*rows, pareto=True) == [
        "a bit of both"
    ]


def test_dropped_prompts_are_counted_by_reason_and_the_file_holds_the_pairs(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    rows = [OWN, candidate("good dog", 2.0, 2.0)]
    for i, (aes, faith) in enumerate([(0.0, 1.0), (5.0, 0.1), (5.0, 0.2)]):
        own = f"prompt {i}"
        rows += [
            candidate(own, 1.0, prompt=own),
            candidate(f"rewrite {i}", aes, 0.0, faith, prompt=own),
        ]
    rows += [
        candidate("alone", 1.0, prompt="alone"),
        candidate("lost", math.nan, prompt="lost", error="no score: AES"),
    ]
    pairs = select(config(select__floors={"FAITH": 0.5}), rows, Suite(), tmp_path)
    assert (
        pairs
        == read_jsonl(tmp_path / "sft_pairs.jsonl", PromptPair)
        == [PromptPair("a dog", "good dog")]
    )
    for part in (
        "1 of 6",
        "2 dropped: below a floor",
        "1 dropped: gain",
        "1 dropped: no rewrite;",
        "1 dropped: the user's prompt has no score",
    ):
        assert part in caplog.text
