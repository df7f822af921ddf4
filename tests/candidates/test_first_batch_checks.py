"""A generator that ignores its prompt and a constant score end a run; what differs passes."""

import numpy as np
import pytest

from pav_jax.candidates.first_batch_checks import PromptSensitivity, ScoreVariation
from pav_jax.errors import BadInput
from pav_jax.records import Candidate

SAME = np.zeros((2, 4, 4, 3), np.uint8)


def other(value):
    return np.full_like(SAME, value)


def check(texts, seeds, videos, errors=None):
    sensitivity = PromptSensitivity()
    sensitivity.add(texts, seeds, videos, errors or [None] * len(texts))
    return sensitivity


@pytest.mark.parametrize("seeds", [(1, 1, 1), (1, 1, 1, 1), (1, 1, 2, 2)])
def test_prompt_sensitivity_same_videos(seeds):
    texts = [str(i) for i in range(len(seeds))]
    videos = [other(seed) for seed in seeds]
    with pytest.raises(BadInput) as caught:
        check(texts, seeds, videos)
    assert caught.value.field == "generator" and "budget.check_generator=False" in str(caught.value)


@pytest.mark.parametrize(
    "texts, seeds, videos, is_decided",
    [
        ("ab", (1, 1), (SAME, other(1)), True),
        ("abc", (1, 1, 1), (SAME, SAME, other(1)), True),
        ("abc", (1, 2, 3), (SAME, SAME, SAME), False),  # nothing to compare
        ("aaa", (1, 1, 1), (SAME, SAME, SAME), False),
        ("ab", (1, 1), (SAME, SAME), False),  # the words may differ where the text is cut
    ],
)
def test_prompt_sensitivity_passes(texts, seeds, videos, is_decided):
    assert check(texts, seeds, videos).is_decided == is_decided


def test_prompt_sensitivity_over_batches():
    sensitivity = check("ab", (1, 1), (SAME, SAME))
    with pytest.raises(BadInput):
        sensitivity.add("c", (1,), [SAME], [None])


def test_prompt_sensitivity_rewrites_of_one_prompt():
    sensitivity = PromptSensitivity()
    sensitivity.add("abcd", (1,) * 4, [SAME] * 4, [None] * 4, ["p"] * 4)
    assert sensitivity.is_suspicious and not sensitivity.is_decided
    with pytest.raises(BadInput):
        sensitivity.add("ef", (1,) * 2, [SAME] * 2, [None] * 2, ["q"] * 2)


def test_prompt_sensitivity_failed_videos():
    errors = ["HTTP status 500"] * 3
    assert not check("abc", (1, 1, 1), [SAME] * 3, errors).is_decided


def candidates(number, **scores):
    rows = [{name: value(i) for name, value in scores.items()} for i in range(number)]
    return [Candidate(str(i), "p", str(i), 0, i, (), "user", 1, row) for i, row in enumerate(rows)]


def constant(i):
    return 0.5


def missing(i):
    return float("nan")


WEIGHTS = {"AES": 1.0, "DD": 0.0, "FAITH": 1.0}


@pytest.mark.parametrize("score, word", [(constant, "is 0.5"), (missing, "is missing")])
def test_score_variation_useless_score(score, word):
    with pytest.raises(BadInput, match=word) as caught:
        ScoreVariation().add(candidates(8, AES=score, TVA=float), WEIGHTS)
    assert caught.value.field == "rewards.weights.AES"
    assert "budget.check_rewards=False" in str(caught.value)


@pytest.mark.parametrize(
    "number, scores",
    [
        (8, dict(AES=float, DD=constant, FAITH=constant)),  # neither is in the weighted sum
        (7, dict(AES=constant)),  # too few to tell
        (9, dict(AES=missing)),  # failed videos
        (8, dict(AES=lambda i: i if i < 2 else np.nan)),
    ],
)
def test_score_variation_passes(number, scores):
    ScoreVariation().add(candidates(number, **scores), WEIGHTS)


def test_score_variation_penalty_that_no_rewrite_gets():
    ScoreVariation().add(candidates(8, AES=float, LENGTH=constant), {"AES": 1.0, "LENGTH": 1.0})
    with pytest.raises(BadInput, match="LENGTH is missing"):
        ScoreVariation().add(candidates(8, AES=float, LENGTH=missing), {"LENGTH": 1.0})


def test_score_variation_small_batches():
    variation = ScoreVariation()
    for _ in range(3):
        variation.add(candidates(2, AES=constant), WEIGHTS)
    with pytest.raises(BadInput):
        variation.add(candidates(2, AES=constant), WEIGHTS)
