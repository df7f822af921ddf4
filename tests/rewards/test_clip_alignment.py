import numpy as np
import pytest

from pav_jax.errors import BadInput
from pav_jax.rewards.aesthetic import Aesthetic
from pav_jax.rewards.clip_alignment import ClipAlignment
from pav_jax.rewards.clip_tower import contact_sheet


def test_score_in_any_batch(clip_folder, videos, prompts):
    reward = ClipAlignment.from_pretrained(clip_folder)
    together = reward.score(videos, prompts)["TVA"]
    np.testing.assert_array_equal(reward.score(videos[2:4], prompts[2:4])["TVA"], together[2:4])
    assert np.abs(reward.score(videos, prompts[::-1])["TVA"] - together).max() > 1e-3


def test_score_ignores_rewrite(clip_folder, videos, prompts):
    reward = ClipAlignment.from_pretrained(clip_folder)
    np.testing.assert_array_equal(
        reward.score(videos, prompts, prompts[::-1])["TVA"], reward.score(videos, prompts)["TVA"]
    )


def test_embed_images_shared_by_rewards(clip_folder, videos, prompts, monkeypatch):
    alignment = ClipAlignment.from_pretrained(clip_folder)
    aesthetic = Aesthetic.from_pretrained(clip_folder)
    assert alignment.tower is aesthetic.tower
    aesthetic.score(videos, prompts)
    monkeypatch.setattr(alignment.tower, "embed_images", None)
    assert np.isfinite(alignment.score(videos, prompts)["TVA"]).all()


def test_score_sheet_layout(clip_folder, videos, prompts):
    sheet = contact_sheet(videos[:, :4])
    assert sheet.shape == (5, 1, 40, 48, 3)
    np.testing.assert_array_equal(sheet[2, 0, 20:, :24], videos[2, 2])
    assert contact_sheet(videos[:, :3]).shape == (5, 1, 20, 72, 3)
    reward = ClipAlignment.from_pretrained(clip_folder, frames=4, layout="sheet")
    order = [0, 1, 2, 4, 3, 5]  # frames 0, 1, 3, 4 are taken: another order is another sheet
    scores = reward.score(videos, prompts)["TVA"]
    assert np.abs(reward.score(videos[:, order], prompts)["TVA"] - scores).max() > 1e-4
    with pytest.raises(BadInput, match="layout"):
        ClipAlignment.from_pretrained(clip_folder, layout="grid")


def test_score_range(clip_folder, videos, prompts):
    reward = ClipAlignment.from_pretrained(clip_folder, frames=3)
    assert np.abs(reward.score(videos, prompts)["TVA"]).max() <= reward.tower.scale
    assert abs(reward.tower.scale - np.exp(2.6592)) < 1e-3
