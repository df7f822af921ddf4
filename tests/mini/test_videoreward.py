"""The embedded VideoReward and its training: labels, loss, tokens, and what its scores respond to.

`tests/mini/test_reward_check.py` measures it on more videos.
"""

import json

import numpy as np
import pytest

from pav_jax.checkpoints.embedded import CHECKPOINTS
from pav_jax.config import load
from pav_jax.mini.captions import user_prompt
from pav_jax.mini.training import reward_check, videoreward
from pav_jax.mini.training.corruption_labels import corrupt
from pav_jax.mini.world import draw_scene
from pav_jax.rewards.suite_config import check_config, read_entries, scores_of
from pav_jax.rewards.videoreward import NAMES, VideoReward
from pav_jax.trust.verdict import ALIGNMENT_SCORES

NUM_SCENES = 8
PATHS = {"path": "mini:videoreward", "template": "mini:videoreward/template.txt"}


@pytest.fixture(scope="module")
def unseen():
    return reward_check.TestVideos(NUM_SCENES, reconstruct=False)


@pytest.fixture(scope="module")
def reward():
    return VideoReward.from_pretrained(**PATHS, batch_size=NUM_SCENES)


@pytest.fixture(scope="module")
def own(unseen, reward):
    return reward.score(unseen.videos, unseen.prompts)


# ---------------------------------------------------------------------------------------- training


def test_judge_labels_motion_quality():
    labels = np.array([[3.0, 2.0, 4.0, 1.0, 2.5]])  # VQ, TC, DD, TVA, FC
    assert np.asarray(videoreward.judge_labels(labels)).tolist() == [[3.0, 3.0, 1.0]]


def test_bradley_terry_loss_minimum():
    labels = np.random.default_rng(0).uniform(1, 4, (8, 3)).astype(np.float32)
    scores = videoreward.SHARPNESS * labels
    best = videoreward.bradley_terry_loss(scores, labels)
    np.testing.assert_allclose(best, 0, atol=1e-6)
    np.testing.assert_allclose(videoreward.bradley_terry_loss(scores + 7, labels), 0, atol=1e-6)
    assert (videoreward.bradley_terry_loss(scores * 0.9, labels) > 0).all()
    wrong = videoreward.bradley_terry_loss(-scores, labels)
    assert (wrong > videoreward.bradley_terry_loss(0 * scores, labels)).all()


def test_tokenize_every_prompt_fits():
    rng = np.random.default_rng(3)
    prompts = [user_prompt(draw_scene(rng), rng) for _ in range(500)]
    judge_processor = videoreward.processor()
    ids, mask = videoreward.tokenize(judge_processor, prompts)
    tokens = judge_processor.tokenizer.convert_ids_to_tokens(ids[0])
    assert ids.shape == mask.shape == (500, videoreward.TOKENS)
    video = videoreward.PAIRS * videoreward.VECTORS
    assert tokens[1 : 1 + video] == [videoreward.VIDEO] * video
    assert tokens[0] == videoreward.CHAT_START and tokens[mask[0].sum() - 1] == videoreward.CHAT_END


# --------------------------------------------------------------------------------------- checkpoint


def test_checkpoint_size():
    files = (CHECKPOINTS / "videoreward").iterdir()
    assert sum(p.stat().st_size for p in files) <= 3.2e6
    settings = json.loads((CHECKPOINTS / "videoreward" / "videoreward.json").read_text())
    assert settings["positions"] == "mrope" and settings["fps"] == videoreward.FPS


def test_score_independent_of_batch(unseen, reward, own):
    alone = reward.score(unseen.videos[3:4], unseen.prompts[3:4])
    for name in NAMES:
        np.testing.assert_allclose(alone[name][0], own[name][3], atol=1e-5)


def test_score_quality_independent_of_prompt(unseen, reward, own):
    wrong = reward.score(unseen.videos, unseen.wrong_prompts)
    for name in ("VR_VQ", "VR_MQ"):
        np.testing.assert_allclose(wrong[name], own[name], atol=1e-5)


def test_score_normalized(own):
    for name in NAMES:
        # of intact videos only, which are better than those of training and alike
        assert abs(own[name].mean()) < 1.5 and 0.1 < own[name].std() < 2


@pytest.mark.parametrize(
    "name, kind",
    [("VR_VQ", "pixelation"), ("VR_VQ", "low contrast"), ("VR_MQ", "slow motion")],
)
def test_score_prefers_intact_videos(name, kind, unseen, reward, own):
    corrupted = np.stack([corrupt(v, kind, 4, i) for i, v in enumerate(unseen.videos)])
    drop = own[name] - reward.score(corrupted, unseen.prompts)[name]
    assert drop.mean() > 0.3 and (drop > 0).mean() > 0.6, drop


def test_score_prefers_own_prompt(unseen, reward, own):
    wrong = reward.score(unseen.videos, unseen.wrong_prompts)["VR_TA"]
    gain = own["VR_TA"] - wrong
    assert gain.mean() > 0.5 and (gain > 0).mean() >= 0.75, gain


# ------------------------------------------------------------------------------------ configuration


def test_config_holds_three_alignment_judges():
    config = load("mini_videoreward")
    check_config(config.rewards)
    entries = read_entries(config.rewards)
    assert set(NAMES) <= set(scores_of(entries.held_out))
    judges = [*scores_of(entries.optimized), *scores_of(entries.held_out)]
    assert sorted(name for name in judges if name in ALIGNMENT_SCORES) == ["TVA", "TVA", "VR_TA"]
    mini = load("mini")
    assert config.rewards.held_out[:1] == mini.rewards.held_out
    config.rewards.held_out = mini.rewards.held_out
    assert config.to_dict() == mini.to_dict()
