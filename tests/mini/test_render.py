"""Renders match their scenes, measured on the pixels."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.mini import render as r
from pav_jax.mini import world as w

BATCH = 16  # one compiled program for all tests of the folder
PIXEL = 2 / w.WIDTH  # the frame spans -1..1
CLEAN = (2, 2, 2, 2, 2)
STUDIO = w.BACKGROUNDS.index("studio")
STILL = w.CAMERAS.index("still")
LIGHT, CONTRAST, GRAIN, FOCUS, STEADINESS = range(5)


def render(scenes):
    return r.render(scenes, batch=BATCH)


def draw(seed, count, **fixed):
    rng = np.random.default_rng(seed)
    return [dataclasses.replace(w.draw_scene(rng), **fixed) for _ in range(count)]


def luma(videos):
    return videos.astype(np.float64) @ np.array([0.299, 0.587, 0.114])


# ------------------------------------------------------------------------------------- reproduction


@pytest.fixture(scope="module")
def mixed():
    scenes = draw(0, BATCH)
    return scenes, render(scenes)


def test_render_shape(mixed):
    assert mixed[1].dtype == np.uint8 and mixed[1].shape == (BATCH, w.FRAMES, w.HEIGHT, w.WIDTH, 3)


def test_render_independent_of_batch(mixed):
    scenes, videos = mixed
    for i in (0, 5, 15):
        np.testing.assert_array_equal(render([scenes[i]])[0], videos[i])
    np.testing.assert_array_equal(render(scenes[::-1])[::-1], videos)
    np.testing.assert_array_equal(render(scenes + scenes[:3])[BATCH:], videos[:3])


def test_render_follows_seed(mixed):
    scenes, videos = mixed
    others = render([dataclasses.replace(s, seed=s.seed + 1) for s in scenes])
    assert all((a != b).any() for a, b in zip(videos, others, strict=True))


def test_to_unit():
    np.testing.assert_allclose(r.to_unit(jnp.array([0, 255], jnp.uint8)), [-1, 1], atol=1e-6)


# ------------------------------------------------------------------------------------------ motions


def subject_mask(videos):
    """Where the subject is, [B, T, H, W]: on the grey studio only the subject is coloured."""
    return np.ptp(videos.astype(int), axis=-1) > 50


def centres(masks):
    """Centroids (x, y up) in the frame's units, [B, T, 2]."""
    axis = (np.arange(w.WIDTH) + 0.5) * PIXEL - 1
    area = masks.sum((2, 3))
    return np.stack(
        [(masks * axis).sum((2, 3)) / area, (masks * -axis[:, None]).sum((2, 3)) / area], axis=-1
    )


def test_render_with_masks():
    coloured = draw(5, 4, background=STUDIO, camera=STILL, material=0, quality=CLEAN, colour=0)
    videos, masks = r.render_with_masks(coloured, batch=BATCH)
    seen = subject_mask(videos)
    # the outline is dark, and half of it lies outside
    assert (masks & seen).sum() > 0.9 * (masks | seen).sum()


@pytest.fixture(scope="module")
def clean_shots():
    """Motion name -> (masks [8, T, H, W], centres [8, T, 2]) of eight clean studio scenes each,
    colours but white."""
    coloured = [i for i, name in enumerate(w.COLOURS) if name != "white"]
    scenes = []
    for number in range(len(w.MOTIONS)):
        rng = np.random.default_rng([3, number])
        scenes += [
            w.Scene(
                subject=int(rng.integers(len(w.SUBJECTS))),
                colour=int(rng.choice(coloured)),
                size=int(rng.integers(2)),
                material=0,
                motion=number,
                background=STUDIO,
                camera=STILL,
                quality=CLEAN,
                seed=int(rng.integers(2**31)),
            )
            for _ in range(8)
        ]
    masks = subject_mask(render(scenes))
    middles = centres(masks)
    return {
        m: (masks[8 * i : 8 * i + 8], middles[8 * i : 8 * i + 8]) for i, m in enumerate(w.MOTIONS)
    }


@pytest.mark.parametrize(
    "motion, axis, sign", [("right", 0, 1), ("left", 0, -1), ("rise", 1, 1), ("fall", 1, -1)]
)
def test_render_straight_motion(motion, axis, sign, clean_shots):
    masks, middles = clean_shots[motion]
    steps = sign * np.diff(middles[..., axis], axis=1)
    assert (steps > PIXEL).all() and (
        steps.sum(1) > 0.7
    ).all()  # frame by frame, over a third of the picture
    assert (np.ptp(middles[..., 1 - axis], axis=1) < PIXEL).all()
    assert (np.ptp(masks.sum((2, 3)), axis=1) < 0.25 * masks.sum((2, 3)).max(1)).all()


def test_render_bounce(clean_shots):
    _, middles = clean_shots["bounce"]
    height = middles[..., 1]
    assert (height[:, [4]] - height[:, [0, 8]] > 0.5).all()
    assert (np.diff(height[:, :5], axis=1) > 0).all() and (np.diff(height[:, 4:], axis=1) < 0).all()
    assert (np.ptp(middles[..., 0], axis=1) < PIXEL).all()


@pytest.mark.parametrize("motion, sign", [("grow", 1), ("shrink", -1)])
def test_render_size_change(motion, sign, clean_shots):
    masks, middles = clean_shots[motion]
    area = masks.sum((2, 3)).astype(float)
    assert (sign * np.diff(area, axis=1) > 0).all()
    assert (area.max(1) > 4 * area.min(1)).all()
    assert (
        np.ptp(middles, axis=1) < 0.25
    ).all()  # a shape is not round about its middle, so its centroid drifts a bit


def test_render_camera():
    grow = w.MOTIONS.index("grow")
    brick = w.BACKGROUNDS.index("brick wall")
    scenes = [
        dataclasses.replace(s, camera=c)
        for s in draw(4, 5, motion=grow, subject=1, size=0, background=brick, quality=CLEAN)
        for c in range(len(w.CAMERAS))
    ]
    edge = luma(render(scenes))[:, :, :8].reshape(
        5, 3, w.FRAMES, -1
    )  # the top rows, where a small subject never is
    change = np.abs(np.diff(edge, axis=2)).mean((2, 3))
    assert (change[:, STILL] == 0).all() and (change[:, 1:] > 1).all()


# ---------------------------------------------------------------------------------------- qualities


def levels(quality, seed, count=5, **fixed):
    """Videos [count, 3, T, H, W, 3] of clean scenes with the three levels of one quality."""
    scenes = [
        dataclasses.replace(s, quality=(*CLEAN[:quality], level, *CLEAN[quality + 1 :]))
        for s in draw(seed, count, **fixed)
        for level in range(3)
    ]
    return render(scenes).reshape(count, 3, w.FRAMES, w.HEIGHT, w.WIDTH, 3)


def rises(values):
    """Whether poor < medium < good in every scene; values [count, 3]."""
    return (np.diff(values, axis=1) > 0).all()


def test_render_light():
    brightness = luma(levels(LIGHT, 10)).mean((2, 3, 4))
    assert rises(brightness)
    np.testing.assert_allclose(brightness / brightness[:, 2:], np.tile(r.LIGHT, (5, 1)), rtol=0.02)


def test_render_contrast():
    assert rises(luma(levels(CONTRAST, 11)).std((2, 3, 4)))


def test_render_grain():
    videos = luma(levels(GRAIN, 12, background=STUDIO))
    noise = (videos - videos[:, 2:]).std((2, 3, 4)) / 255
    assert rises(-noise)
    np.testing.assert_allclose(
        noise, np.tile(r.GRAIN, (5, 1)), rtol=0.15
    )  # a little is lost where pixels saturate


def test_render_focus():
    videos = luma(levels(FOCUS, 13))
    slopes = np.hypot(np.diff(videos, axis=3)[..., :-1], np.diff(videos, axis=4)[..., :-1, :])
    assert rises(np.percentile(slopes, 97, axis=(2, 3, 4)))


def test_render_steadiness():
    right = w.MOTIONS.index("right")
    videos = levels(
        STEADINESS, 14, background=STUDIO, camera=STILL, motion=right, colour=0, material=0, size=0
    )
    heights = centres(subject_mask(videos.reshape(-1, *videos.shape[2:])))[..., 1].reshape(
        5, 3, w.FRAMES
    )
    wander = heights.std(2)
    assert rises(-wander) and (wander[:, 2] < PIXEL / 4).all()
    np.testing.assert_allclose(wander[:, 0] / wander[:, 1], r.SHAKE[0] / r.SHAKE[1], rtol=0.25)


def test_gaussian_rows_sum_to_one():
    for sigma in (0.0, 0.85, 1.9):
        rows = np.asarray(jax.jit(r._gaussian_rows, static_argnums=1)(sigma, 16))
        np.testing.assert_allclose(rows.sum(1), 1, rtol=1e-5)
        assert (sigma > 0) ^ np.allclose(rows, np.eye(16))
