"""What the mini VideoScore is told of each frame: where things are, and what has changed since the
first."""

import dataclasses

import numpy as np
import pytest

from pav_jax.mini import render
from pav_jax.mini.training import damage, videoscore_examples
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
SOUND = np.arange(FRAMES)


@pytest.mark.parametrize("motion", range(len(MOTIONS)))
def test_the_path_is_that_of_the_rendered_subject(motion):
    scene = dataclasses.replace(SCENE, motion=motion)
    _, masks = render.render_with_masks([scene], batch=1)
    for mask, (x, y, radius, _, _) in zip(masks[0], render.path(scene), strict=True):
        rows, columns = np.nonzero(mask)
        height, width = mask.shape
        assert (columns.mean() + 0.5) / width * 2 - 1 == pytest.approx(x, abs=0.05)
        assert 1 - (rows.mean() + 0.5) / height * 2 == pytest.approx(y, abs=0.05)
        if rows.min() > 0 and rows.max() < height - 1:  # a ball's radius is 0.88 of its size
            assert np.sqrt(mask.mean() * 4 / np.pi) == pytest.approx(0.88 * radius, abs=0.05)


def test_a_sound_video_moves_and_nothing_changes():
    told = videoscore_examples.frame_by_frame(SCENE, SCENE, SOUND, np.zeros(FRAMES))
    assert told["changed"].max() == 0 and told["passed"].tolist() == (SOUND / 4).tolist()
    assert told["moved"][-1, 0] == pytest.approx(0.9) and not told["moved"][:, 1:].any()
    assert (told["attributes"] == told["attributes"][0]).all()


def test_a_frozen_video_stays_where_it_stood():
    order = damage.damaged(SOUND.astype(np.uint8)[:, None, None, None], "freeze", 4, 0)[:, 0, 0, 0]
    told = videoscore_examples.frame_by_frame(SCENE, SCENE, order, np.zeros(FRAMES))
    assert not told["moved"].any() and not told["passed"].any()


def test_a_camera_that_pans_moves_though_the_subject_does_not():
    still = dataclasses.replace(SCENE, motion=MOTIONS.index("grow"), camera=CAMERAS.index("pan"))
    moved = videoscore_examples.frame_by_frame(still, still, SOUND, np.zeros(FRAMES))["moved"]
    assert moved[-1, 3] == pytest.approx(0.6) and not moved[:, :2].any() and moved[-1, 2] > 0


def test_a_turn_changes_what_it_names_from_the_middle_on():
    other = dataclasses.replace(SCENE, colour=3)
    fade = np.where(SOUND >= damage.fade_start(FRAMES), 0.75, 0.0)
    told = videoscore_examples.frame_by_frame(SCENE, other, SOUND, fade)
    assert told["changed"][0].tolist() == [0, 0, 0] and told["changed"][-1].tolist() == [0, 0.75, 0]
    assert (told["attributes"][0, 1], told["attributes"][-1, 1]) == (1, 3)
