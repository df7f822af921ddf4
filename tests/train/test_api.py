"""Training from Python: datasets of several forms, and a reward that reads texts."""

import json
from pathlib import Path

import datasets
import jax
import numpy as np
import pytest

import pav_jax as pav
from pav_jax.errors import BadInput
from pav_jax.records import Preference, PromptPair
from pav_jax.storage.records import read_jsonl, write_jsonl
from pav_jax.train.datasets import write_pairs, write_preferences
from tests.tiny import language_model as tiny

OPTIONS = dict(max_steps=2, batch_size=2, gradient_accumulation_steps=1, learning_rate=1e-2)
PAIRS = [PromptPair("a", "b c"), PromptPair("d", "e f g")]


@pytest.fixture(scope="module")
def lm():
    return tiny.make_lm()


def largest_change(before, after):
    changes = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), before.params, after.params)
    return max(jax.tree.leaves(changes))


def test_write_pairs_forms(tmp_path):
    write_jsonl(tmp_path / "p.jsonl", PAIRS)
    rows = [{"prompt": pair.prompt, "completion": pair.refined} for pair in PAIRS]
    messages = [
        {
            "messages": [
                {"role": "user", "content": pair.prompt},
                {"role": "assistant", "content": pair.refined},
            ]
        }
        for pair in PAIRS
    ]
    forms = [PAIRS, rows, datasets.Dataset.from_list(rows), messages, tmp_path / "p.jsonl"]
    for dataset in forms:
        assert read_jsonl(write_pairs(dataset, tmp_path / "out.jsonl"), PromptPair) == PAIRS


def test_write_pairs_missing_column(tmp_path):
    with pytest.raises(BadInput) as error:
        write_pairs([{"prompt": "a", "text": "b"}], tmp_path / "out.jsonl")
    assert (error.value.source, error.value.field) == ("dataset", "completion")


def test_write_preferences_conversations(tmp_path):
    rows = [
        {
            "prompt": [{"role": "user", "content": "a"}],
            "chosen": [{"role": "assistant", "content": "b"}],
            "rejected": [{"role": "assistant", "content": "c d"}],
        }
    ]
    path = write_preferences(datasets.Dataset.from_list(rows), tmp_path / "out.jsonl")
    assert read_jsonl(path, Preference) == [Preference("a", "b", "c d", 0.0)]


@pytest.mark.slow
def test_sft_and_dpo(lm, tmp_path):
    config = pav.train.SFTConfig(**OPTIONS)
    tuned = pav.train.sft(lm, PAIRS, config, output_dir=tmp_path / "sft")
    assert largest_change(lm, tuned) > 1e-4
    assert tuned.lora is None and (tmp_path / "sft" / "adapter").is_dir()
    again = pav.train.sft(lm, PAIRS, config, output_dir=tmp_path / "sft")
    assert largest_change(tuned, again) == 0
    preferences = [{"prompt": "a", "chosen": "b", "rejected": "c d"}] * 2
    aligned = pav.train.dpo(tuned, preferences, pav.train.DPOConfig(**OPTIONS))
    assert largest_change(tuned, aligned) > 1e-4


@pytest.mark.slow
def test_grpo_text_reward(lm, tmp_path):
    def brevity(prompts, completions):
        assert len(prompts) == len(completions)
        return [-len(text.split()) for text in completions]

    options = OPTIONS | dict(batch_size=4, num_generations=2, max_completion_length=8)
    config = pav.train.GRPOConfig(**options)
    tuned = pav.train.grpo(lm, ["a", "b c"], config, reward=brevity, output_dir=tmp_path / "grpo")
    assert largest_change(lm, tuned) > 1e-4
    lines = (Path(tmp_path) / "grpo" / "metrics.jsonl").read_text().splitlines()
    assert all("rewards/brevity/mean" in json.loads(line) for line in lines)


def test_grpo_suite_without_generator(lm, tmp_path):
    suite = pav.RewardSuite([zero_reward], weights={"zero_reward": 1.0})
    with pytest.raises(BadInput) as error:
        pav.train.grpo(lm, ["a"], reward=suite, output_dir=tmp_path)
    assert error.value.source == "generator"


@pytest.mark.slow
def test_grpo_text_rewards_mixed(lm, tmp_path):
    """Rewards that read texts and a function, as a list and as a suite."""

    def brevity(prompts, completions):
        return [-len(text.split()) for text in completions]

    config = pav.train.GRPOConfig(
        **OPTIONS | dict(batch_size=4, num_generations=2, max_completion_length=8, max_steps=1)
    )

    class Capitals(pav.Reward):
        names = ("CAPITALS",)
        reads_video = False

        def score(self, videos, prompts, refined=None):
            return {"CAPITALS": np.array([sum(map(str.isupper, t)) for t in refined], np.float32)}

    rewards = [pav.rewards.Length(2, 3), Capitals(), brevity]
    pav.train.grpo(lm, ["a", "b c"], config, reward=rewards, output_dir=tmp_path / "list")
    metrics = json.loads((tmp_path / "list" / "metrics.jsonl").read_text())
    names = {"rewards/LENGTH/mean", "rewards/CAPITALS/mean", "rewards/brevity/mean"}
    assert names <= set(metrics) and "videos_per_second" not in metrics
    suite = pav.RewardSuite(rewards[:2], weights={"LENGTH": 1.0})
    pav.train.grpo(lm, ["a", "b c"], config, reward=suite, output_dir=tmp_path / "suite")


def test_grpo_video_reward_without_generator(lm, tmp_path):
    rewards = [pav.rewards.Length(2, 3), pav.rewards.Motion()]
    with pytest.raises(BadInput, match="generator: TC, DD: scores of videos") as error:
        pav.train.grpo(lm, ["a"], reward=rewards, output_dir=tmp_path)
    assert error.value.source == "generator" and "\n" not in str(error.value)


def zero_reward(videos, prompts):
    return [0.0] * len(prompts)
