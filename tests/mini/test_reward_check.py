"""The embedded VideoScore, MPS and VideoReward on unseen scenes and corruption types;
`python -m pav_jax.mini.training.reward_check` measures more."""

import numpy as np
import pytest

from pav_jax.config import load
from pav_jax.mini.training import reward_check
from pav_jax.mini.training.corruption_labels import HELD_OUT
from pav_jax.rewards.suite import RewardSuite
from pav_jax.rewards.videoscore import NAMES

pytestmark = pytest.mark.slow  # trains and scores many videos


@pytest.fixture(scope="module")
def unseen():
    return reward_check.TestVideos(24, reconstruct=False)


@pytest.fixture(scope="module")
def videoscore():
    return reward_check.load_videoscore()


@pytest.fixture(scope="module")
def correlations(unseen, videoscore):
    return reward_check.severity_ranking(videoscore, unseen, HELD_OUT)


@pytest.mark.parametrize("dimension", NAMES)
def test_videoscore_ranks_severities_of_unseen_types(dimension, correlations):
    values = [value for kind, value in correlations.items() if kind.startswith(f"{dimension}, ")]
    assert np.mean(values) >= reward_check.MIN_CORRELATION, correlations


def test_videoscore_wrong_prompt(unseen, videoscore):
    own, wrong = (
        videoscore.score(unseen.videos, texts) for texts in (unseen.prompts, unseen.wrong_prompts)
    )
    drop = {name: np.mean(own[name] - wrong[name]) for name in NAMES}
    assert np.mean(own["TVA"] > wrong["TVA"]) >= 0.8 and drop["TVA"] > 5 * abs(drop["VQ"])


def test_videoscore_quality_correlates_with_scene(unseen, videoscore):
    quality = [np.mean(scene.quality[:4]) for scene in unseen.scenes]
    assert np.corrcoef(quality, videoscore.score(unseen.videos, unseen.prompts)["VQ"])[0, 1] >= 0.6


@pytest.fixture(scope="module")
def videoreward():
    return reward_check.load_videoreward()


def test_videoreward_ranks_severities_of_unseen_types(unseen, videoreward):
    kinds = reward_check.VIDEOREWARD_HELD_OUT
    correlations = reward_check.severity_ranking(videoreward, unseen, kinds)
    for name in kinds:
        values = [value for kind, value in correlations.items() if kind.startswith(f"{name}, ")]
        assert np.mean(values) >= reward_check.MIN_CORRELATION, correlations


def test_videoreward_wrong_prompt(unseen, videoreward):
    values = reward_check.alignment_auc(videoreward, unseen)
    assert min(values.values()) >= reward_check.MIN_AUC, values


def test_mps_preferences(unseen):
    for kind, share in reward_check.preference_accuracy(reward_check.load_mps(), unseen).items():
        assert share >= reward_check.MIN_PREFERENCE, kind


def test_full_suite_score_names(unseen):
    suite = RewardSuite.from_config(load("configs/mini.py").rewards)
    scores = suite.score(unseen.videos[:2], unseen.prompts[:2], refined=unseen.prompts[:2])
    assert set(scores) == {*NAMES, "AES", "MPS", "FAITH", "held_out:TVA"}
    assert np.isfinite(suite.overall(scores)).all()
    assert set(suite.weights) == {*NAMES, "AES", "MPS"} == set(suite.thresholds)
