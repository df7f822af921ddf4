import numpy as np
import pytest

from pav_jax.errors import BadInput
from pav_jax.rewards.clip_tower import IMAGES, ClipTower, in_batches


def test_load_same_folder_once(clip_folder):
    assert ClipTower.load(clip_folder) is ClipTower.load(str(clip_folder / ".." / clip_folder.name))


def test_embed_images_in_any_batch(clip_folder):
    tower = ClipTower.load(clip_folder)
    images = np.random.default_rng(0).integers(0, 256, (IMAGES + 3, 16, 16, 3), np.uint8)
    together = tower.embed_images(images)
    np.testing.assert_array_equal(tower.embed_images(images[-2:]), together[-2:])
    np.testing.assert_array_equal(tower.embed_images(images[::-1])[::-1], together)
    assert np.ptp(together, axis=0).max() > 0.01


def test_embed_texts_in_any_batch_and_truncated(clip_folder, prompts):
    tower = ClipTower.load(clip_folder)
    together = tower.embed_texts(prompts)
    tower._text_cache.clear()
    np.testing.assert_array_equal(tower.embed_texts(prompts[2:3])[0], together[2])
    assert (tower.tokens(["red " * 100])[0] == 3).sum() == 1


def test_embed_frames_changed_in_place(clip_folder, videos):
    tower = ClipTower.load(clip_folder)
    clips = videos.copy()
    before = tower.embed_frames(clips, 2)
    clips[:] = 255 - clips
    assert np.abs(tower.embed_frames(clips, 2) - before).max() > 0


def test_in_batches_drops_padding():
    rows = np.arange(5)[:, None]
    assert in_batches(lambda x: x * 2 + len(x) * 0, rows, 4).tolist() == [[0], [2], [4], [6], [8]]


def test_load_wrong_tokenizer(tmp_path, make_clip):
    make_clip(tmp_path)
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace('"eos_token_id": 3', '"eos_token_id": 5'))
    with pytest.raises(BadInput, match="eos_token_id 5"):
        ClipTower.load(tmp_path).embed_texts(["a cat"])
    other = tmp_path / "other"
    make_clip(other)
    (other / "tokenizer.json").unlink()
    with pytest.raises(BadInput, match="tokenizer.json"):
        ClipTower.load(other)
