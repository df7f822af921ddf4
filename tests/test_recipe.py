"""The recipe: the order of its stages, and what a stage says when an earlier one has not run."""

import contextlib
import logging
import types

import numpy as np
import pytest

from pav_jax import recipe
from pav_jax.config import load
from pav_jax.errors import BadInput
from pav_jax.recipe import Recipe
from pav_jax.records import Candidate, Preference
from pav_jax.storage.records import SegmentFolder, write_jsonl
from pav_jax.train import dpo_trainer
from tests.workdir_monitor import STAGES


@pytest.mark.parametrize(
    "stage, options, existing, missing, command",
    [
        ("select", {}, (), "pool", "evolve"),
        ("sft", {}, (), "sft_pairs.jsonl", "select"),
        ("prefer", {"round": 1}, (), "sft/booster", "sft"),
        ("prefer", {"round": 2}, ("sft/booster",), "round_1/booster", "dpo --round=1"),
        ("dpo", {"round": 1}, ("sft/booster",), "preferences.jsonl", "prefer --round=1"),
        ("dpo", {"round": 1}, ("round_1/preferences.jsonl",), "sft/booster", "sft"),
        ("grpo", {}, (), "sft/booster", "sft"),
    ],
)
def test_stage_before_its_input_exists(stage, options, existing, missing, command, tmp_path):
    for name in existing:
        (tmp_path / name).mkdir(parents=True)
    with pytest.raises(BadInput) as caught:
        getattr(Recipe(), stage)(tmp_path, **options)
    assert caught.value.source.endswith(missing)
    assert f"run `pav {command}` first" in str(caught.value)


def test_evaluate_system_without_booster(tmp_path, monkeypatch):
    (tmp_path / "sft" / "booster").mkdir(parents=True)
    loaded = types.SimpleNamespace(config=load(), rewriter=None, chat_proposers={})
    monkeypatch.setattr(recipe, "Components", lambda *_: loaded)
    with pytest.raises(BadInput) as caught:
        Recipe().evaluate(tmp_path)
    assert caught.value.field == "evaluate.systems"


def test_report_uses_configured_options(tmp_path, monkeypatch):
    options = {}
    monkeypatch.setattr(recipe, "write_report", lambda workdir, **fields: options.update(fields))
    config = load(overrides=["--config.report.title=T", "--config.report.num_worst=1"])
    Recipe(config).report(tmp_path)
    assert options == {"title": "T", "num_examples": 8, "num_worst": 1}


def test_run_order_of_stages(tmp_path, monkeypatch):
    calls = []

    def record(name):
        def stage(self, workdir, *rest):
            assert workdir == tmp_path
            calls.append((name, *rest))
            return tmp_path / "report" / "index.html"

        return stage

    for name in STAGES:
        monkeypatch.setattr(Recipe, name, record(name))
    assert Recipe().run(tmp_path) == tmp_path / "report" / "index.html"
    assert calls == [
        ("evolve",),
        ("select",),
        ("sft",),
        ("prefer", 1),
        ("dpo", 1),
        ("prefer", 2),
        ("dpo", 2),
        ("evaluate",),
        ("report",),
    ]
    assert (tmp_path / "config.json").exists()


def test_recipe_with_python_objects():
    def redness(videos, prompts):
        return videos[..., 0].mean(axis=(1, 2, 3))

    def noise(prompts, seeds):
        rng = np.random.default_rng(0)
        return rng.integers(0, 255, (len(prompts), 3, 8, 8, 3), np.uint8)

    models = Recipe(load(), generator=noise, rewards=[redness]).components
    assert set(models.suite.names) == {"redness", "FAITH"}
    assert models.suite.weights == {"redness": 1.0}
    assert models.generator.generate(["a", "b"], seed=[0, 1]).shape == (2, 3, 8, 8, 3)


def test_dpo_logs_reward_hacking_warnings(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(dpo_trainer, "run", lambda *_: None)
    monkeypatch.setattr(recipe, "load_rewriter", lambda *_: None)
    (tmp_path / "sft" / "booster").mkdir(parents=True)
    texts = [(f"{i}", f"{i} and many more words") for i in range(8)]
    scores = ("AES", "TVA", "TC", "DD")
    candidates = [
        Candidate(text, "p", text, 1, 0, (), "sft", 1, {name: 1.0 * long for name in scores})
        for pair in texts
        for long, text in enumerate(pair)
    ]
    SegmentFolder(tmp_path / "round_1" / "candidates", Candidate).write(candidates)
    pairs = [Preference("p", long, short, 4.0) for short, long in texts]
    write_jsonl(tmp_path / "round_1" / "preferences.jsonl", pairs)
    with caplog.at_level(logging.WARNING):
        Recipe().dpo(tmp_path)
    assert "reward-hacking warnings" in caplog.text
    assert "5.00 times" in caplog.text


@pytest.mark.parametrize(
    "stage", ["run", "evolve", "select", "sft", "prefer", "dpo", "grpo", "evaluate", "trust"]
)
def test_stage_in_locked_work_directory(stage, tmp_path, monkeypatch):
    @contextlib.contextmanager
    def locked(workdir):
        raise BadInput("held", source="--workdir")
        yield

    monkeypatch.setattr(recipe, "workdir_lock", locked)
    with pytest.raises(BadInput, match="held"):
        getattr(Recipe(), stage)(tmp_path)
    assert not list(tmp_path.iterdir())
