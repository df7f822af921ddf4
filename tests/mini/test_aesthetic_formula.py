"""The aesthetic formula: it rises with light and falls with grain, and reads pixels only."""

import dataclasses
import inspect

import numpy as np
import pytest

from pav_jax.mini.training import aesthetic_formula as a
from pav_jax.mini.world import QUALITIES, draw_scene
from tests.mini.test_render import render


def by_level(quality, count=10):
    """Scores [count, 3] of random scenes with the three levels of one quality."""
    rng = np.random.default_rng(20)
    index = QUALITIES.index(quality)
    scenes = [draw_scene(rng) for _ in range(count)]
    changed = [
        dataclasses.replace(s, quality=(*s.quality[:index], level, *s.quality[index + 1 :]))
        for s in scenes
        for level in range(3)
    ]
    return a.aesthetic(render(changed)).reshape(count, 3)


@pytest.mark.parametrize("quality", ["light", "grain", "contrast", "focus"])
def test_aesthetic_rises_with_quality(quality):
    scores = by_level(quality)
    assert (np.diff(scores.mean(0)) > 0.02).all()
    if quality in ("light", "grain"):  # not only on average
        assert (scores[:, 2] > scores[:, 0]).all()


def test_aesthetic_range():
    rng = np.random.default_rng(21)
    scores = a.aesthetic(render([draw_scene(rng) for _ in range(48)]))
    assert scores.shape == (48,) and (scores > 2.5).all() and (scores < 8.5).all()
    assert abs(scores.mean() - 5.5) < 0.4  # features are standardised over random renders


def test_aesthetic_signature():
    assert list(inspect.signature(a.aesthetic).parameters) == ["videos"]
    assert list(inspect.signature(a.features).parameters) == ["frames"]


def test_aesthetic_independent_of_batch():
    rng = np.random.default_rng(22)
    videos = render([draw_scene(rng) for _ in range(6)])
    np.testing.assert_array_equal(a.aesthetic(videos)[4:], a.aesthetic(videos[4:]))


def test_features_plain_frames():
    grey = np.full((1, 64, 64, 3), 51, np.uint8)
    values = {name: float(value[0]) for name, value in a.features(grey).items()}
    assert values == pytest.approx(
        {"exposure": 0.2, "contrast": 0, "colourfulness": 0, "detail": 0, "noise": 0}, abs=1e-6
    )
    assert set(values) == set(a.FEATURES)


def test_features_noise():
    rng = np.random.default_rng(23)
    noise = np.kron(rng.normal(size=(64, 32, 32)), np.ones((2, 2)))
    for deviation in (0.02, 0.05):
        frames = np.round((0.5 + deviation * noise[..., None].repeat(3, -1)) * 255).astype(np.uint8)
        assert a.features(frames)["noise"].mean() == pytest.approx(deviation, rel=0.1)
    half = np.zeros((1, 64, 64, 3), np.uint8)
    half[:, :, 33:] = 255
    assert a.features(half)["noise"][0] == 0
