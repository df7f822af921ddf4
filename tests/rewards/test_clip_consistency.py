import numpy as np
import pytest

from pav_jax.errors import BadInput
from pav_jax.rewards import ClipAlignment, ClipConsistency, RewardSuite


def test_score_mean_cosine_of_neighbours(clip_folder, videos, prompts):
    judge = ClipConsistency.from_pretrained(clip_folder)
    scores = judge.score(videos, prompts)["CFC"]
    for video, score in zip(videos, scores, strict=True):
        x = judge.tower.embed_images(video)
        cosines = [
            a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(x, x[1:], strict=False)
        ]
        assert score == pytest.approx(np.mean(cosines), abs=1e-5)
    assert scores.max() < 1 - 1e-4


def test_score_still_video_and_single_frame(clip_folder, videos, prompts):
    judge = ClipConsistency.from_pretrained(clip_folder)
    still = np.repeat(videos[:, :1], 4, axis=1)
    np.testing.assert_allclose(judge.score(still, prompts)["CFC"], 1, atol=1e-6)
    assert np.isnan(judge.score(videos[:, :1], prompts)["CFC"]).all()
    few = ClipConsistency.from_pretrained(clip_folder, frames=3)
    np.testing.assert_array_equal(
        few.score(videos, prompts)["CFC"], judge.score(videos[:, [0, 2, 4]], prompts)["CFC"]
    )
    with pytest.raises(BadInput, match="frames is 1"):
        ClipConsistency.from_pretrained(clip_folder, frames=1)


def test_from_config_held_out_shares_tower(clip_folder, videos, prompts):
    suite = RewardSuite.from_config(
        {
            "entries": {"clip_alignment": {"path": str(clip_folder)}},
            "weights": {"TVA": 1},
            "held_out": [{"name": "clip_consistency", "path": str(clip_folder)}],
        }
    )
    assert (
        isinstance(suite.rewards[0], ClipAlignment)
        and suite.rewards[0].tower is suite.held_out_rewards[0].tower
    )
    assert np.isfinite(suite.score(videos, prompts)["held_out:CFC"]).all()
    assert (
        suite.held_out_rewards[0].fingerprint
        != ClipConsistency.from_pretrained(clip_folder, frames=3).fingerprint
    )
