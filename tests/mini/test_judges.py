"""The shipped judges on scenes and kinds of damage that no training saw;
`python -m pav_jax.mini.training.judges` says more."""

import numpy as np
import pytest

from pav_jax.config import load
from pav_jax.mini.training import judges
from pav_jax.mini.training.damage import HELD_OUT
from pav_jax.rewards.suite import RewardSuite
from pav_jax.rewards.videoscore import NAMES


@pytest.fixture(scope="module")
def fresh():
    return judges.Fresh(24, rebuilt=False)


@pytest.fixture(scope="module")
def videoscore():
    return judges.videoscore()


@pytest.fixture(scope="module")
def correlations(fresh, videoscore):
    return judges.follows(videoscore, fresh, HELD_OUT)


@pytest.mark.parametrize("dimension", NAMES)
def test_a_dimension_ranks_the_severities_of_kinds_it_was_not_trained_on(dimension, correlations):
    found = [value for kind, value in correlations.items() if kind.startswith(f"{dimension}, ")]
    assert np.mean(found) >= judges.FOLLOWS, correlations


def test_alignment_falls_for_a_wrong_prompt_and_quality_does_not(fresh, videoscore):
    own, wrong = (videoscore.score(fresh.videos, texts) for texts in (fresh.prompts, fresh.others))
    fall = {name: np.mean(own[name] - wrong[name]) for name in NAMES}
    assert np.mean(own["TVA"] > wrong["TVA"]) >= 0.8 and fall["TVA"] > 5 * abs(fall["VQ"])


def test_quality_follows_what_the_scene_says(fresh, videoscore):
    said = [np.mean(scene.quality[:4]) for scene in fresh.scenes]
    assert np.corrcoef(said, videoscore.score(fresh.videos, fresh.prompts)["VQ"])[0, 1] >= 0.6


def test_mps_prefers_sound_pictures_and_the_right_ones(fresh):
    for kind, share in judges.prefers(judges.mps(), fresh).items():
        assert share >= judges.PREFERS, kind


def test_the_full_suite_scores_what_the_method_scores(fresh):
    suite = RewardSuite.from_config(load("configs/mini.py").rewards)
    scores = suite.score(fresh.videos[:2], fresh.prompts[:2], refined=fresh.prompts[:2])
    assert set(scores) == {*NAMES, "AES", "MPS", "FAITH", "held_out:TVA"}
    assert np.isfinite(suite.overall(scores)).all()
    assert set(suite.weights) == {*NAMES, "AES", "MPS"} == set(suite.thresholds)
