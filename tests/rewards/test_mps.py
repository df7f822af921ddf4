import numpy as np
import pytest

from pav_jax.errors import BadInput
from pav_jax.rewards import mps
from pav_jax.rewards.mps import MPS
from pav_jax.rewards.suite import RewardSuite


@pytest.fixture(scope="module")
def reward(mps_folder, condition):
    return MPS.from_pretrained(mps_folder, condition=condition)


def test_score_in_any_batch(reward, videos, prompts):
    together = reward.score(videos, prompts)["MPS"]
    assert together.shape == (5,) and together.dtype == np.float32 and np.isfinite(together).all()
    np.testing.assert_array_equal(reward.score(videos[2:4], prompts[2:4])["MPS"], together[2:4])
    many = np.concatenate([videos] * 3)  # more than one program's rows
    assert len(many) > mps.VIDEOS
    np.testing.assert_array_equal(reward.score(many, prompts * 3)["MPS"], np.tile(together, 3))
    assert np.abs(reward.score(videos, prompts[::-1])["MPS"] - together).max() > 1e-3
    assert np.abs(reward.score(255 - videos, prompts)["MPS"] - together).max() > 1e-3


def test_score_ignores_rewrite(reward, videos, prompts):
    np.testing.assert_array_equal(
        reward.score(videos, prompts, prompts[::-1])["MPS"], reward.score(videos, prompts)["MPS"]
    )


def test_score_mean_over_frames(reward, videos, prompts):
    frames = [
        reward.score(np.repeat(videos[:, t : t + 1], 4, axis=1), prompts)["MPS"]
        for t in (0, 1, 3, 4)
    ]  # of six
    np.testing.assert_allclose(
        reward.score(videos, prompts)["MPS"], np.mean(frames, 0), rtol=0, atol=1e-5
    )


def test_tokens_padded_and_truncated(reward):
    ids = reward.tokens(["a cat", "red " * 100])
    assert ids.shape == (2, 8) and ids[0].tolist()[3:] == [3, 0, 0, 0, 0] and ids[1, -1] == 3


def test_condition_text(tmp_path):
    text = mps.condition_text(mps.CONDITION)
    assert text.startswith("light, color, clarity, tone,") and text.endswith(
        "location, word, things."
    )
    assert text.count(",") == 21
    (tmp_path / "words.txt").write_text("\n  hands \nfaces\n")
    assert mps.condition_text(tmp_path / "words.txt") == "hands, faces."
    (tmp_path / "words.txt").write_text("\n")
    with pytest.raises(BadInput, match="one word per line"):
        mps.condition_text(tmp_path / "words.txt")
    with pytest.raises(BadInput, match="gone.txt"):
        mps.condition_text(tmp_path / "gone.txt")


def test_from_config(mps_folder, videos, prompts):
    config = dict(entries=dict(mps=dict(path=str(mps_folder), frames=2)), weights=dict(MPS=0.25))
    suite = RewardSuite.from_config(config)
    scores = suite.score(videos[:1], prompts[:1])
    assert suite.names == ("MPS",) and suite.overall(scores) == 0.25 * scores["MPS"]


def test_from_pretrained_clip_folder(clip_folder):
    with pytest.raises(BadInput, match="model_type"):
        MPS.from_pretrained(clip_folder)
