"""Held-out judges: scored with the others under names of their own, and never weighed."""

import numpy as np
import pytest
from ml_collections import ConfigDict

from pav_jax import config as configuration
from pav_jax.errors import BadInput
from pav_jax.rewards import Motion, Reward, RewardSuite
from pav_jax.rewards.suite_config import check_config, check_stage


class Judge(Reward):
    def __init__(self, *names):
        self.names = names

    def score(self, videos, prompts, refined=None):
        return {name: np.full(len(videos), 7.0) for name in self.names}


def test_score_held_out_not_in_overall(videos, prompts):
    plain = RewardSuite([Motion()], {"TC": 1.0})
    watched = RewardSuite([Motion()], {"TC": 1.0}, held_out=[Judge("TC", "VQ")])
    assert watched.names == plain.names and watched.held_out == ("held_out:TC", "held_out:VQ")
    scores = watched.score(videos, prompts)
    before = plain.score(videos, prompts)
    assert set(scores) - set(before) == set(watched.held_out) and (scores["held_out:TC"] == 7).all()
    assert scores["held_out:TC"].dtype == np.float32
    assert watched.overall(scores).tolist() == plain.overall(before).tolist()
    assert set(watched.score(videos[:0], [])) == set(scores)


@pytest.mark.parametrize("field", ["weights", "thresholds", "constraints"])
def test_suite_held_out_without_weight_or_bounds(field):
    with pytest.raises(BadInput, match=f"rewards.{field}.held_out:VQ: no entry gives this score"):
        RewardSuite(
            [Motion()], **({"weights": {}} | {field: {"held_out:VQ": 1.0}}), held_out=[Judge("VQ")]
        )
    suite = RewardSuite([Motion()], {"TC": 1.0}, held_out=[Judge("VQ")])
    with pytest.raises(BadInput, match="held_out:VQ"):
        suite.overall({"TC": [1.0], "held_out:VQ": [1.0]}, {"held_out:VQ": 1.0})


def test_from_config_held_out():
    loaded = configuration.load(None, ["--config.rewards.held_out=({'name': 'motion'},)"]).rewards
    assert RewardSuite.from_config(
        ConfigDict({"entries": {"faithfulness": {}}, "held_out": loaded.held_out})
    ).held_out == ("held_out:TC", "held_out:DD")
    mapping = {"entries": {"motion": {}}, "held_out": {"motion": {}}}
    assert RewardSuite.from_config(mapping).held_out == ("held_out:TC", "held_out:DD")


@pytest.mark.parametrize(
    "judges, message",
    [
        ([{"name": "beauty"}], "rewards.held_out: there is no reward 'beauty'"),
        ([{"name": "motion", "speed": 3}], "rewards.held_out.motion: there is no option 'speed'"),
        (
            [{"name": "motion"}, {"name": "motion"}],
            "rewards.held_out: two entries give the score TC",
        ),
    ],
)
def test_from_config_invalid_held_out(judges, message):
    with pytest.raises(BadInput, match=message):
        RewardSuite.from_config({"entries": {"motion": {}}, "held_out": judges})


ENDPOINT = {"model": "m", "base_url": "http://127.0.0.1:9/v1", "api_key_env": "TEST_KEY"}


@pytest.mark.parametrize(
    "kind, names",
    [
        ("vqascore", ("VQA",)),
        ("text_rubric", ("RUBRIC_SF", "RUBRIC_IC", "RUBRIC_DQ")),
        ("vision_questions", ("QA",)),
    ],
)
def test_from_config_endpoint_judge_held_out_by_default(kind, names, monkeypatch, caplog):
    monkeypatch.setenv("TEST_KEY", "sk-secret")
    config = {"entries": {"motion": {}, kind: ENDPOINT}, "weights": {"TC": 1.0}}
    suite = RewardSuite.from_config(config)
    assert suite.names == ("TC", "DD")
    assert suite.held_out == tuple(f"held_out:{name}" for name in names)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"rewards.entries.{kind} is held out: {', '.join(names)} will")
    assert f"rewards.weights.{names[0]}" in line and "\n" not in line

    caplog.clear()
    named = [("weights", 0.5), ("weights", 0.0), ("thresholds", 0.1), ("constraints", 0.1)]
    for field, value in named:
        weights = config["weights"] | {names[-1]: None}  # None does not name it
        changed = config | {"weights": weights} | {field: {"TC": 1.0, names[-1]: value}}
        suite = RewardSuite.from_config(changed)
        assert suite.names == ("TC", "DD", *names) and suite.held_out == ()
    assert not caplog.records


def test_check_config_endpoint_judge_held_out_by_default():
    config = {"entries": {"motion": {}, "vqascore": ENDPOINT}, "weights": {"TC": 1.0}}
    check_config(config | {"skip": ("VQA",)})
    with pytest.raises(BadInput, match="prefer.weights.VQA.*rewards.weights.VQA too") as caught:
        check_stage(config, "prefer", {"weights": {"VQA": 1.0}})
    assert caught.value.field == "prefer.weights.VQA"
    check_stage(config | {"weights": {"TC": 1.0, "VQA": 0.0}}, "prefer", {"weights": {"VQA": 1.0}})
    with pytest.raises(BadInput, match="held out by default, and there are no other entries"):
        check_config({"entries": {"vqascore": ENDPOINT}, "weights": {}})
    with pytest.raises(BadInput, match="rewards.held_out: two entries give the score VQA"):
        check_config(config | {"held_out": [{"name": "vqascore", **ENDPOINT}]})
