"""The frame labels of the mini VideoScore's training examples."""

import dataclasses

import numpy as np
import pytest

from pav_jax.mini import render
from pav_jax.mini.training import corruption_labels
from pav_jax.mini.training.videoscore_examples import frame_labels
from pav_jax.mini.world import CAMERAS, FRAMES, MOTIONS, Scene

SCENE = Scene(
    subject=0,
    colour=1,
    size=1,
    material=0,
    motion=0,
    background=0,
    camera=0,
    quality=(2,) * 5,
    seed=0,
)
CLEAN_CLOCK = np.arange(FRAMES)


@pytest.mark.parametrize("motion", range(len(MOTIONS)))
def test_path_matches_rendered_subject(motion):
    scene = dataclasses.replace(SCENE, motion=motion)
    _, masks = render.render_with_masks([scene], batch=1)
    for mask, (x, y, radius, _, _) in zip(masks[0], render.path(scene), strict=True):
        rows, columns = np.nonzero(mask)
        height, width = mask.shape
        assert (columns.mean() + 0.5) / width * 2 - 1 == pytest.approx(x, abs=0.05)
        assert 1 - (rows.mean() + 0.5) / height * 2 == pytest.approx(y, abs=0.05)
        if rows.min() > 0 and rows.max() < height - 1:  # a ball's radius is 0.88 of its size
            assert np.sqrt(mask.mean() * 4 / np.pi) == pytest.approx(0.88 * radius, abs=0.05)


def test_frame_labels_clean_video():
    labels = frame_labels(SCENE, SCENE, CLEAN_CLOCK, np.zeros(FRAMES))
    assert labels["changed"].max() == 0 and labels["passed"].tolist() == (CLEAN_CLOCK / 4).tolist()
    assert labels["moved"][-1, 0] == pytest.approx(0.9) and not labels["moved"][:, 1:].any()
    assert (labels["attributes"] == labels["attributes"][0]).all()


def test_frame_labels_frozen_video():
    order = corruption_labels.corrupt(
        CLEAN_CLOCK.astype(np.uint8)[:, None, None, None].repeat(3, axis=3), "freeze", 4, 0
    )[:, 0, 0, 0]
    labels = frame_labels(SCENE, SCENE, order, np.zeros(FRAMES))
    assert not labels["moved"].any() and not labels["passed"].any()


def test_frame_labels_panning_camera():
    still = dataclasses.replace(SCENE, motion=MOTIONS.index("grow"), camera=CAMERAS.index("pan"))
    motion = frame_labels(still, still, CLEAN_CLOCK, np.zeros(FRAMES))["moved"]
    assert motion[-1, 3] == pytest.approx(0.6)
    assert not motion[:, :2].any() and motion[-1, 2] > 0


def test_frame_labels_colour_change():
    other = dataclasses.replace(SCENE, colour=3)
    fade = np.where(np.arange(FRAMES) >= corruption_labels.fade_start(FRAMES), 0.75, 0.0)
    labels = frame_labels(SCENE, other, CLEAN_CLOCK, fade)
    assert labels["changed"][0].tolist() == [0, 0, 0] and labels["changed"][-1].tolist() == [
        0,
        0.75,
        0,
    ]
    assert (labels["attributes"][0, 1], labels["attributes"][-1, 1]) == (1, 3)
