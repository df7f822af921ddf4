import json

import jax
import numpy as np
import pytest
from PIL import Image

from pav_jax.errors import BadInput
from pav_jax.rewards.preprocess import (
    OPENAI_MEAN,
    OPENAI_STD,
    Preprocess,
    clip_pixels,
    frame_indices,
    resize_bicubic,
)

SIZES = [
    (tuple(map(int, rng.integers(9, 90, 2))), tuple(map(int, rng.integers(7, 70, 2))))
    for rng in map(np.random.default_rng, range(5))
] + [((64, 64), (224, 224)), ((50, 30), (50, 17))]


@pytest.mark.parametrize("source,target", SIZES)
def test_resize_bicubic_equals_pillow(source, target):
    image = np.random.default_rng(sum(source)).integers(0, 256, (*source, 3), np.uint8)
    picture = Image.fromarray(image)
    for size in (
        (target[1], source[0]),
        target[::-1],
    ):  # recent versions swap the passes where the shape changes much
        picture = picture.resize(size, Image.Resampling.BICUBIC)
    theirs = np.asarray(picture, np.float32)
    ours = np.asarray(jax.jit(resize_bicubic, static_argnums=(1, 2))(image[None], *target))[0]
    assert np.abs(ours - theirs).max() <= 1
    assert (ours != theirs).mean() < 0.01


@pytest.mark.parametrize("height,width", [(40, 60), (61, 33), (20, 20), (16, 27)])
def test_clip_pixels_equal_pillow(height, width):
    image = np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
    short = min(height, width)
    size = (int(16 * width / short), int(16 * height / short))
    picture = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
    left = (size[0] - 16) // 2
    top = (size[1] - 16) // 2
    cut = np.asarray(picture.crop((left, top, left + 16, top + 16)), np.float32) / 255
    ours = (
        np.asarray(clip_pixels(image[None], Preprocess(16, (16, 16))))[0] * OPENAI_STD + OPENAI_MEAN
    )
    assert np.abs(ours - cut).max() <= 1 / 255 + 1e-6


def test_from_folder(tmp_path):
    assert Preprocess.from_folder(tmp_path, 16) == Preprocess(16, (16, 16))
    raw = {
        "size": {"shortest_edge": 20},
        "crop_size": {"height": 16, "width": 16},
        "image_mean": [0, 0, 0],
        "image_std": [1, 1, 1],
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(raw))
    assert Preprocess.from_folder(tmp_path, 16) == Preprocess(20, (16, 16), (0, 0, 0), (1, 1, 1))
    with pytest.raises(BadInput, match="crop_size"):
        Preprocess.from_folder(tmp_path, 32)


def test_clip_pixels_padded_crop():
    image = np.full((1, 8, 8, 3), 255, np.uint8)
    out = np.asarray(clip_pixels(image, Preprocess(8, (12, 12), (0, 0, 0), (1, 1, 1))))
    assert out.shape == (1, 12, 12, 3) and out[0, 2:10, 2:10].min() == 1 and out.sum() == 8 * 8 * 3


def test_frame_indices():
    assert frame_indices(9, 4).tolist() == [0, 2, 4, 6]
    assert frame_indices(49, 4).tolist() == [0, 12, 24, 36]
    assert frame_indices(2, 4).tolist() == [0, 0, 1, 1]
    assert all(len(frame_indices(t, n)) == n for t in range(1, 60) for n in range(1, 20))
