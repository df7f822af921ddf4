"""Tuning by rewards on a tiny rewriter: where it starts, what it learns, what a stop changes, which
rewards count."""

import json
import math
import os
import signal
import subprocess
import sys
import types

import numpy as np
import pytest
from ml_collections import ConfigDict

from pav_jax import budget
from pav_jax.errors import BadInput, BudgetReached
from pav_jax.language.language_model import LanguageModel
from pav_jax.records import Candidate
from pav_jax.storage.records import read_segments
from pav_jax.train import grpo_trainer as grpo
from pav_jax.train.config import grpo_config
from tests.budgets import limited
from tests.fakes import FakeGenerator, FakeSuite
from tests.tiny import language_model as tiny

STEPS = 6
VIDEOS = 16  # in a batch
UNCHECKED = "check_rewards=False"  # TVA is always 0
PROMPTS = ["a b", "c d e", "f", "g h i j", "k l", "m n o", "p", "q r s"]


def make_config(**changes):
    fields = grpo_config()
    fields.update(
        dict(
            max_steps=STEPS,
            batch_size=32,
            gradient_accumulation_steps=1,
            num_generations=8,
            max_completion_length=8,
            learning_rate=2e-2,
            lr_scheduler_type="constant",
            beta=0.02,
            loss_chunk_size=16,
            save_steps=2,
            remat=False,
        )
    )
    fields.update(changes)
    return ConfigDict({"seed": 0, "generator": {"batch_size": VIDEOS}, "grpo": fields})


def early_letters(prompt, refined):
    """The share of a rewrite's letters that come from the first half of the alphabet."""
    return sum(letter < "n" for letter in refined.split()) / len(refined.split())


def make_suite(value=early_letters, **names):
    return FakeSuite(value=value, **names)


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def column(folder, name):
    return np.asarray([line[name] for line in lines(folder)])


@pytest.fixture(scope="module")
def lm():
    return tiny.make_lm()


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    path = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    path.write_text("\n".join(PROMPTS))
    return path


@pytest.fixture(scope="module")
def straight(lm, prompts, tmp_path_factory):
    """A run without interruption: its folder and its generator."""
    folder = tmp_path_factory.mktemp("straight") / "grpo"
    generator = FakeGenerator()
    grpo.run(make_config(), lm, prompts, generator, make_suite(), folder)
    return folder, generator


# -------------------------------------------------------------------------------------------- a run


@pytest.mark.slow
def test_run_first_step(straight):
    first = lines(straight[0])[0]
    assert first["ratio"] == 1.0 and first["kl"] == pytest.approx(0.0, abs=1e-6)
    assert first["clip_ratio/region_mean"] == 0.0


@pytest.mark.slow
def test_run_reward_rises(straight):
    rewards = column(straight[0], "reward")
    kl = column(straight[0], "kl")
    assert rewards[-2:].mean() > rewards[:2].mean() + 0.15
    assert kl[-1] > 1e-3


@pytest.mark.slow
def test_run_metric_names(straight):
    assert set(lines(straight[0])[0]) == {
        "step",
        "loss",
        "ratio",
        "entropy",
        "kl",
        "clip_ratio/low_mean",
        "clip_ratio/high_mean",
        "clip_ratio/region_mean",
        "grad_norm",
        "learning_rate",
        "reward",
        "reward_std",
        "frac_reward_zero_std",
        "overall",
        "rewards/AES/mean",
        "rewards/TVA/mean",
        "rewards/FAITH/mean",
        "advantages/abs_mean",
        "advantages/max",
        "completions/infeasible",
        "completions/without_reward",
        "completions/mean_length",
        "completions/clipped_ratio",
        "videos_per_second",
        "tokens_per_second",
        "tokens_per_second_per_chip",
        "mfu",
    }
    first = lines(straight[0])[0]
    assert first["reward"] == pytest.approx(
        first["overall"] + 1.0
    )  # FAITH is 1 here, its weight too
    assert 1 <= first["completions/mean_length"] <= 8


@pytest.mark.slow
def test_run_candidates(straight):
    folder, generator = straight
    steps = [
        read_segments(folder / "candidates" / f"{n:06d}", Candidate) for n in range(1, STEPS + 1)
    ]
    for number, candidates in enumerate(steps, 1):
        assert {c.round for c in candidates} == {number}
        assert len({c.prompt for c in candidates}) == 4  # batch_size / num_generations
        assert len({c.seed for c in candidates}) == 4  # a group shares its video's seed
    assert not {c.seed for c in steps[0]} & {c.seed for c in steps[1]}
    assert len(generator.made) == sum(map(len, steps)) and set(generator.batch_sizes) == {VIDEOS}


@pytest.mark.slow
def test_run_finished(straight, lm, prompts):
    folder, _ = straight
    booster = LanguageModel.from_pretrained(folder / "booster", dtype="float32")
    assert booster.tokenizer.chat_template == lm.tokenizer.chat_template
    again = FakeGenerator()
    assert grpo.run(make_config(), lm, prompts, again, make_suite(), folder) == folder / "booster"
    assert again.made == []
    with pytest.raises(BadInput, match="another --workdir"):
        grpo.run(make_config(faith_weight=0.5), lm, prompts, again, make_suite(), folder)


class Killer(FakeGenerator):
    """Ends the process in its tenth call: within step 5, half of whose videos are on disk."""

    def generate(self, prompts, *, seed):
        if len(self.batch_sizes) == 9:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().generate(prompts, seed=seed)


@pytest.mark.slow
def test_run_resumed_after_kill(straight, lm, prompts, tmp_path):
    folder = tmp_path / "grpo"
    done = FakeGenerator()
    program = f"""
from tests.tiny import language_model as tiny
from tests.train import test_grpo_trainer as t
prompts, folder = {str(prompts)!r}, {str(folder)!r}
t.grpo.run(t.make_config(), tiny.make_lm(), prompts, t.Killer(), t.make_suite(), folder)
"""
    killed = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": os.getcwd()}
    )
    assert killed.returncode == -signal.SIGKILL
    num_finished = len(read_segments(folder / "candidates" / "000005", Candidate))
    assert 0 < num_finished < len(read_segments(straight[0] / "candidates" / "000005", Candidate))
    grpo.run(make_config(), lm, prompts, done, make_suite(), folder)
    for name in ("step", "loss", "reward", "kl", "completions/mean_length"):
        np.testing.assert_allclose(
            column(folder, name), column(straight[0], name), atol=1e-6, rtol=0
        )
    for step in range(1, STEPS + 1):
        segments = [p / "candidates" / f"{step:06d}" for p in (folder, straight[0])]
        assert read_segments(segments[0], Candidate) == read_segments(segments[1], Candidate)
        records = [
            line for path in segments[0].glob("*.jsonl") for line in path.read_text().splitlines()
        ]
        assert len(records) == len(read_segments(segments[0], Candidate))
    assert len(done.made) < len(straight[1].made) / 2


def test_run_budget_of_videos(straight, lm, prompts, tmp_path):
    """The third step has no videos left: the first two are kept, though no checkpoint was due."""
    folder = tmp_path / "grpo"
    made = [len(read_segments(straight[0] / "candidates" / f"{n:06d}", Candidate)) for n in (1, 2)]
    config = make_config(save_steps=None)
    generator = FakeGenerator()
    with (
        pytest.raises(BudgetReached) as caught,
        limited(tmp_path, "grpo", UNCHECKED, f"stage_videos={{'grpo': {sum(made)}}}") as progress,
    ):
        grpo.run(config, lm, prompts, generator, make_suite(), folder, progress)
    assert caught.value.exit_status == 3 and caught.value.field == "budget.stage_videos.grpo"
    assert "stopped at grpo, step 3: 0 of 32 videos; " in str(caught.value)
    assert len(generator.made) == sum(made) and column(folder, "step").tolist() == [1, 2]
    assert (folder / "checkpoints" / "2").is_dir()
    check_continued(straight, lm, prompts, folder, generator)


@pytest.mark.slow
def test_run_budget_of_hours(straight, lm, prompts, tmp_path, monkeypatch):
    """Each batch of videos takes an hour, each step two."""
    folder = tmp_path / "grpo"
    generator = FakeGenerator()
    clock = types.SimpleNamespace(monotonic=lambda: 3600.0 * len(generator.batch_sizes))
    monkeypatch.setattr(budget, "time", clock)
    config = make_config(save_steps=None)
    for limit, position in (
        ("hours=0", "grpo: 0 of 6 steps"),
        ("hours=2", "grpo: 1 of 6 steps"),
        ("stage_hours={'grpo': 3}", "grpo: 2 of 6 steps"),
        ("usd=50", "grpo"),
    ):
        with (
            pytest.raises(BudgetReached) as caught,
            limited(tmp_path, "grpo", UNCHECKED, limit, "usd_per_hour=10") as progress,
        ):
            grpo.run(config, lm, prompts, generator, make_suite(), folder, progress)
        assert f"stopped at {position}" in str(caught.value)
    check_continued(straight, lm, prompts, folder, generator)


def check_continued(straight, lm, prompts, folder, generator):
    """Without a limit a run goes on to the result of `straight`, and makes no video twice."""
    config = make_config(save_steps=None)
    grpo.run(config, lm, prompts, generator, make_suite(), folder)
    assert sorted(generator.made) == sorted(straight[1].made)
    for name in ("step", "loss", "reward", "kl", "completions/mean_length"):
        np.testing.assert_array_equal(column(folder, name), column(straight[0], name))
    weights = [f / "booster" / "model.safetensors" for f in (folder, straight[0])]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    with limited(folder.parent, "grpo", "videos=0", "hours=0") as progress:  # nothing is left to do
        grpo.run(config, lm, prompts, generator, make_suite(), folder, progress)


def test_run_missing_scores(lm, prompts, tmp_path, caplog):
    """In the first step half of the videos have no score, in the second none has."""

    def value(prompt, refined):
        return math.nan if len(suite.batch_sizes) > 2 or len(refined.split()) % 2 else 1.0

    suite = make_suite(value)
    grpo.run(make_config(max_steps=2), lm, prompts, FakeGenerator(), suite, tmp_path)
    first, second = lines(tmp_path)
    assert (
        math.isfinite(first["loss"])
        and first["reward"] == 2.0
        and 0 < first["completions/without_reward"] < 1
    )
    assert (
        second["loss"] == second["grad_norm"] == 0.0 and second["completions/without_reward"] == 1.0
    )
    assert "reward" not in second and "NaN" not in json.dumps([first, second])
    # that a reward tells nothing apart is said in every step, from the records on disk
    for last in (1, 2):
        assert (
            f"grpo, steps 1 to {last}: reward-hacking warnings: AES is saturated: 100% of the"
            " rewrites have its highest score" in caplog.text
        )


# ---------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "changes, named",
    [
        (dict(loss_type="gpro"), "loss_type='gpro'"),
        (dict(num_generations=1), "num_generations=1"),
        (dict(num_generations=5), "num_generations=5: does not divide batch_size=32"),
        (dict(temperature=0.0), "temperature=0.0"),
        (dict(epsilon=1.5), "epsilon=1.5"),
        (dict(beta=-1.0), "beta"),
        (dict(scale_rewards="all"), "scale_rewards='all'"),
        (dict(constraints={"FAIT": 0.5}), "constraints.FAIT"),
        (dict(weights={"VQ": 1.0}), "VQ"),
        (dict(betas=1.0), "betas"),
        (dict(batch_size=80), "takes batch_size / num_generations = 10 prompts, but there are 8"),
        (dict(num_iterations=0), "num_iterations=0"),
        (dict(constraint_penalty=-1.0), "constraint_penalty"),
    ],
)
def test_run_invalid_field(lm, prompts, tmp_path, changes, named):
    config = make_config()
    config.grpo = ConfigDict(config.grpo.to_dict() | changes)
    with pytest.raises(BadInput, match=named):
        grpo.run(config, lm, prompts, FakeGenerator(), make_suite(), tmp_path)


def test_run_suite_without_faith(lm, prompts, tmp_path):
    suite = make_suite()
    suite.names = ("AES", "TVA")
    with pytest.raises(BadInput, match="faith_weight=1.0: no reward gives FAITH"):
        grpo.run(make_config(), lm, prompts, FakeGenerator(), suite, tmp_path)
