"""GRPO on rewards that read texts only: without generator and videos; learning, and a kill."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from pav_jax.config import load
from pav_jax.errors import BadInput
from pav_jax.recipe import Recipe
from pav_jax.records import Candidate
from pav_jax.rewards import Length, Likelihood, RewardSuite
from pav_jax.storage.records import read_segments
from pav_jax.train import grpo_trainer as grpo
from tests.tiny import language_model as tiny
from tests.train.test_grpo_trainer import PROMPTS, STEPS, column, make_config

CHANGES = dict(faith_weight=0.0, beta=0.0)


class Killer(Likelihood):
    """Ends the process in its tenth call: within step 5, half of whose scores are on disk."""

    num_calls = 0

    def score(self, videos, prompts, refined=None):
        self.num_calls += 1
        if self.num_calls == 10:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().score(videos, prompts, refined)


def make_suite(likelihood=Likelihood):
    """Likelihood under the untrained model itself, and a length."""
    style = likelihood(tiny.make_lm(), batch_size=16)
    return RewardSuite([style, Length(4, 6)], {"LIKELIHOOD": 1.0, "LENGTH": 1.0})


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    path = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    path.write_text("\n".join(PROMPTS))
    return path


@pytest.fixture(scope="module")
def straight(prompts, tmp_path_factory):
    """The folder of a run without interruption."""
    folder = tmp_path_factory.mktemp("straight") / "grpo"
    grpo.run(make_config(**CHANGES), tiny.make_lm(), prompts, None, make_suite(), folder)
    return folder


@pytest.mark.slow
def test_run_rewards_rise(straight):
    # LENGTH is near its highest value from the start: only the sum is what is optimized
    for name in ("reward", "rewards/LIKELIHOOD/mean"):
        values = column(straight, name)
        assert values[-2:].mean() > values[:2].mean() + 0.05, (name, values)
    assert not list(straight.parent.rglob("*.mp4"))


@pytest.mark.slow
def test_run_resumed_after_kill(straight, prompts, tmp_path):
    folder = tmp_path / "grpo"
    program = f"""
from tests.tiny import language_model as tiny
from tests.train import test_text_rewards as t
config = t.make_config(**t.CHANGES)
t.grpo.run(config, tiny.make_lm(), {str(prompts)!r}, None, t.make_suite(t.Killer), {str(folder)!r})
"""
    killed = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": os.getcwd()}
    )
    assert killed.returncode == -signal.SIGKILL
    assert 0 < len(candidates(folder, 5)) < len(candidates(straight, 5))
    grpo.run(make_config(**CHANGES), tiny.make_lm(), prompts, None, make_suite(), folder)
    for name in ("step", "loss", "reward", "completions/mean_length"):
        np.testing.assert_array_equal(column(folder, name), column(straight, name))
    for step in range(1, STEPS + 1):
        assert candidates(folder, step) == candidates(straight, step)
    weights = [next((f / "booster").glob("*.safetensors")).read_bytes() for f in (folder, straight)]
    assert weights[0] == weights[1]


def candidates(folder, step):
    return read_segments(folder / "candidates" / f"{step:06d}", Candidate)


# ------------------------------------------------------------------------------------- the recipe


@pytest.fixture
def text_config(prompts, tmp_path):
    """A configuration with text rewards, whose generator does not exist."""
    tiny.make_lm().save_pretrained(tmp_path / "start")
    config = load()
    config.generator.path = str(tmp_path / "no generator")
    config.rewriter.path = str(tmp_path / "start")
    config.rewards.weights = {"LENGTH": 1.0}
    config.rewards.constraints = {}
    with config.unlocked():
        config.rewards.entries = {"length": {"minimum": 4, "maximum": 6}}
    config.grpo = make_config(max_steps=1, batch_size=8, num_generations=4, faith_weight=0.0).grpo
    config.grpo.start = "base"
    config.grpo.prompts = str(prompts)
    return config


@pytest.mark.slow
def test_recipe_grpo_makes_no_video(text_config, tmp_path, capfd):
    text_config.grpo.keep_videos = "all"
    recipe = Recipe(text_config)
    assert not recipe.components.makes_videos
    folder = recipe.grpo(tmp_path / "run")
    assert (folder / "config.json").exists()
    assert "1 steps of 8 rewrites, 0 videos" in capfd.readouterr().err
    spent = json.loads((tmp_path / "run" / "logs" / "spent.json").read_text())
    assert spent["grpo"]["videos"] == 0
    assert not list(tmp_path.rglob("*.mp4"))
    assert all(c.video is None and c.error is None for c in candidates(folder.parent, 1))


def test_recipe_trust_without_videos(text_config, tmp_path):
    with pytest.raises(BadInput, match="all of these read texts only") as caught:
        Recipe(text_config).trust(tmp_path / "run")
    assert caught.value.field == "rewards.entries"


def test_recipe_grpo_video_reward_needs_the_generator(text_config, tmp_path):
    with text_config.unlocked():
        text_config.rewards.entries = {"motion": {}, "faithfulness": {}}
    text_config.rewards.weights = {"DD": 1.0}
    with pytest.raises(BadInput, match="no generator"):
        Recipe(text_config).grpo(tmp_path / "run")
