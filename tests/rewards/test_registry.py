"""Entries of a configuration: built-in kinds, classes and functions of a user."""

import dataclasses
import inspect

import numpy as np
import pytest

from pav_jax.errors import BadInput
from pav_jax.rewards import Reward, RewardSuite, as_reward
from pav_jax.rewards.registry import KINDS, parse_entries
from pav_jax.rewards.suite_config import check_config, config_reads_video

MODULE = """
import dataclasses
import pav_jax as pav

@dataclasses.dataclass(frozen=True)
class Options:
    scale: float = 1.0

class Brightness(pav.rewards.Reward):
    names = ("BRIGHT",)
    options = Options

    def __init__(self, scale=1.0):
        self.scale = scale

    @classmethod
    def from_options(cls, options):
        return cls(options.scale)

    def score(self, videos, prompts, refined=None):
        return {"BRIGHT": self.scale * videos.mean(axis=(1, 2, 3, 4))}

def warmth(videos, prompts):
    return videos[..., 0].mean(axis=(1, 2, 3)) - videos[..., 2].mean(axis=(1, 2, 3))

class NoReward:
    pass

class NoScore(pav.rewards.Reward):
    names = ("NONE",)
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    name = f"user_rewards_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


@pytest.mark.parametrize("kind", KINDS)
def test_kind_matches_class(kind):
    reward_class = KINDS[kind].load()
    assert (reward_class.names, reward_class.options) == (KINDS[kind].names, KINDS[kind].options)
    parameters = inspect.signature(reward_class.from_pretrained).parameters
    fields = dataclasses.fields(KINDS[kind].options)
    assert [field.name for field in fields] == list(parameters)
    for field in fields:
        default = parameters[field.name].default
        required = field.default is dataclasses.MISSING
        assert (default is inspect.Parameter.empty) if required else (default == field.default)


class TextOnly(Reward):
    names = ("T",)
    reads_video = False

    def score(self, videos, prompts, refined=None):
        return {"T": [0.0] * len(prompts)}


@pytest.mark.parametrize(
    "entries, skip, held_out, video_scores",
    [
        ({"faithfulness": {}, "length": {"minimum": 1, "maximum": 9}}, (), (), ()),
        ({"faithfulness": {}, "motion": {}}, (), (), ("TC", "DD")),
        ({"faithfulness": {}, "motion": {}}, ("TC",), (), ("DD",)),
        ({"faithfulness": {}, "motion": {}}, ("TC", "DD"), (), ()),
        ({"faithfulness": {}}, (), [{"name": "motion"}], ("TC", "DD")),
        ({f"{__name__}:TextOnly": {}}, (), (), ()),
    ],
)
def test_reads_video(entries, skip, held_out, video_scores):
    """Known from a configuration as it is from the loaded rewards."""
    config = {"entries": entries, "weights": {}, "skip": skip, "held_out": held_out}
    suite = RewardSuite.from_config(config)
    assert suite.video_scores == video_scores
    assert suite.reads_video == config_reads_video(config) == bool(video_scores)


def test_from_config_plugins(module, videos, prompts):
    config = {
        "entries": [
            {"name": f"{module}:Brightness", "scale": 2.0},
            {"name": f"{module}:warmth"},
        ],
        "weights": {"BRIGHT": 1.0, "warmth": 0.5},
    }
    check_config(config)
    suite = RewardSuite.from_config(config)
    scores = suite.score(videos, prompts)
    assert suite.names == ("BRIGHT", "warmth")
    np.testing.assert_allclose(scores["BRIGHT"], 2 * videos.mean(axis=(1, 2, 3, 4)), rtol=1e-6)
    assert scores["warmth"].shape == (len(videos),)


@pytest.mark.parametrize(
    "name, options, field",
    [
        ("Brightness", {"scale": "large"}, "Brightness.scale"),
        ("Brightness", {"size": 1}, "Brightness.size"),
        ("warmth", {"scale": 1.0}, "warmth"),
        ("absent", {}, "absent"),
        ("NoReward", {}, "NoReward"),
        ("NoScore", {}, "NoScore"),
    ],
)
def test_from_config_invalid_plugin(module, name, options, field):
    with pytest.raises(BadInput) as error:
        RewardSuite.from_config({"entries": [{"name": f"{module}:{name}", **options}]})
    assert error.value.source == "configuration"
    assert error.value.field == f"rewards.entries.{module}:{field}"


@pytest.mark.parametrize(
    "entries, field",
    [
        ({"beauty": {}}, "rewards.entries"),
        ({"aesthetic": {}}, "rewards.entries.aesthetic.path"),
        ({"aesthetic": {"path": 3}}, "rewards.entries.aesthetic.path"),
        ({"aesthetic": {"path": "x", "layout": "rows"}}, "rewards.entries.aesthetic.layout"),
        ({"videoscore": {"path": "x", "frames": 0}}, "rewards.entries.videoscore.frames"),
        ({"motion": {"speed": 3}}, "rewards.entries.motion.speed"),
        ([{"path": "x"}], "rewards.entries"),
    ],
)
def test_parse_entries_invalid(entries, field):
    with pytest.raises(BadInput) as error:
        parse_entries(entries, "entries")
    assert (error.value.source, error.value.field) == ("configuration", field)


def test_as_reward_function(videos, prompts):
    reward = as_reward(lambda videos, prompts: np.arange(len(videos)), name="INDEX")
    assert isinstance(reward, Reward) and reward.names == ("INDEX",)
    assert reward.score(videos, prompts)["INDEX"].tolist() == [0, 1, 2, 3, 4]
    assert as_reward(reward) is reward


@pytest.mark.parametrize("value", [3, Reward, lambda videos, prompts: [0.0]])
def test_as_reward_invalid(value):
    with pytest.raises(BadInput) as error:
        as_reward(value)
    assert error.value.source == "rewards"
