import math

import numpy as np
import pytest

from pav_jax.candidates.scoring import overall_scores, stage_weights, weighted_sums
from pav_jax.errors import BadInput
from pav_jax.records import Candidate
from tests.fakes import FakeSuite


def candidate(error=None, **scores):
    return Candidate("key", "a dog", "a big dog", 1, 0, (), "local", 1, scores, None, error)


def test_overall_scores_not_selectable():
    rows = [
        candidate(AES=1.0, TVA=2.0, FAITH=0.5),
        candidate(AES=1.0, TVA=math.nan),
        candidate(AES=1.0),
        candidate("the video is not finite", AES=1.0, TVA=2.0),
    ]
    weights = {"AES": 2.0, "TVA": 0.5, "FAITH": 100.0, "MPS": 0.0}
    assert overall_scores(rows, weights).tolist() == [3.0, -math.inf, -math.inf, -math.inf]
    sums = weighted_sums(rows, weights)
    assert sums[3] == 3.0 and np.isnan(sums[1:3]).all()
    assert overall_scores([], weights).shape == (0,)


def test_overall_scores_equal_the_suites():
    rng = np.random.default_rng(0)
    weights = {"TVA": 1 / 3, "AES": 0.7}
    columns = {name: rng.normal(0, 3, 50).astype(np.float32) for name in ("AES", "TVA")}
    rows = [candidate(AES=float(a), TVA=float(t)) for a, t in zip(*columns.values(), strict=True)]
    expected = FakeSuite().overall(columns, weights)
    assert overall_scores(rows, weights).tolist() == expected.tolist()


def test_stage_weights_precedence():
    config = {
        "rewards": {"weights": {"AES": 1.0}},
        "evolve": {"weights": {"AES": 2.0}},
        "select": {"weights": None},
        "prefer": {"weights": {"AES": 3.0}},
        "grpo": {},
    }
    stages = ("evolve", "select", "prefer", "grpo", "evaluate")
    assert [stage_weights(config, stage)["AES"] for stage in stages] == [2.0, 2.0, 3.0, 1.0, 1.0]
    config["select"]["weights"] = {"AES": 4.0}
    assert stage_weights(config, "select") == {"AES": 4.0}
    assert stage_weights({}, "evolve") == {}


def test_stage_weights_of_suite():
    assert stage_weights({}, "evolve", FakeSuite()) == FakeSuite().weights
    config = {"prefer": {"weights": {"AES": 1.0, "VQ": 0.0}}}
    assert stage_weights(config, "prefer", FakeSuite()) == {"AES": 1.0, "VQ": 0.0}
    config["prefer"]["weights"]["VQ"] = 0.5
    with pytest.raises(BadInput) as caught:
        stage_weights(config, "prefer", FakeSuite())
    assert caught.value.field == "prefer.weights.VQ"
