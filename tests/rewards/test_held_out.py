"""Held-out judges: scored with the others under names of their own, and never weighed."""

import numpy as np
import pytest
from ml_collections import ConfigDict

from pav_jax import config as configuration
from pav_jax.errors import BadInput
from pav_jax.rewards import Motion, Reward, RewardSuite


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
