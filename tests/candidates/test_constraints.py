import pytest

from pav_jax.candidates.constraints import is_feasible, minimum_scores, passes_thresholds
from pav_jax.errors import BadInput
from pav_jax.records import Candidate


def candidate(**scores):
    return Candidate("key", "a dog", "a big dog", 1, 0, (), "local", 1, scores)


def test_minimum_scores_of_stage_and_suite():
    suite = {"FAITH": 0.7}
    assert minimum_scores(None, suite) == suite
    assert minimum_scores({}, suite) == {}
    assert minimum_scores({"AES": 1, "FAITH": None}, suite) == {"AES": 1.0}
    assert minimum_scores(None, None) == {}


def test_minimum_scores_held_out():
    with pytest.raises(BadInput) as caught:
        minimum_scores({"held_out:VQ": 1.0}, None)
    assert caught.value.field == "held_out:VQ"
    assert minimum_scores({"held_out:VQ": None, "AES": 1}, None) == {"AES": 1.0}


def test_passes_thresholds_strictly():
    assert passes_thresholds(candidate(AES=2.0), {"AES": 1.9})
    assert not passes_thresholds(candidate(AES=2.0), {"AES": 2.0})
    assert not passes_thresholds(candidate(AES=2.0), {"MPS": 0.0})
    assert passes_thresholds(candidate(), {})


def test_is_feasible_at_the_minimum():
    assert is_feasible({"FAITH": 0.7}, {"FAITH": 0.7})
    assert not is_feasible({"FAITH": 0.69}, {"FAITH": 0.7})
    assert not is_feasible({"FAITH": float("nan")}, {"FAITH": 0.0})
    assert not is_feasible({}, {"FAITH": 0.0})
