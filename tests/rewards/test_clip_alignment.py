import numpy as np

from pav_jax.rewards.aesthetic import Aesthetic
from pav_jax.rewards.clip_alignment import ClipAlignment


def test_a_score_is_the_same_in_any_batch_and_reads_the_prompt(clip_folder, videos, prompts):
    reward = ClipAlignment.from_pretrained(clip_folder)
    together = reward.score(videos, prompts)["TVA"]
    np.testing.assert_array_equal(reward.score(videos[2:4], prompts[2:4])["TVA"], together[2:4])
    assert np.abs(reward.score(videos, prompts[::-1])["TVA"] - together).max() > 1e-3


def test_the_rewrite_is_not_read(clip_folder, videos, prompts):
    reward = ClipAlignment.from_pretrained(clip_folder)
    np.testing.assert_array_equal(reward.score(videos, prompts, prompts[::-1])["TVA"],
                                  reward.score(videos, prompts)["TVA"])


def test_frames_are_embedded_once_for_both_rewards_of_a_folder(clip_folder, videos, prompts, monkeypatch):
    alignment, aesthetic = ClipAlignment.from_pretrained(clip_folder), Aesthetic.from_pretrained(clip_folder)
    assert alignment.tower is aesthetic.tower
    aesthetic.score(videos, prompts)
    monkeypatch.setattr(alignment.tower, "embed_images", None)
    assert np.isfinite(alignment.score(videos, prompts)["TVA"]).all()


def test_the_score_is_within_the_logit_scale(clip_folder, videos, prompts):
    reward = ClipAlignment.from_pretrained(clip_folder, frames=3)
    assert np.abs(reward.score(videos, prompts)["TVA"]).max() <= reward.tower.scale
    assert abs(reward.tower.scale - np.exp(2.6592)) < 1e-3
