import numpy as np
import pytest

from pav_jax.rewards import motion
from pav_jax.rewards.motion import Motion, block_matrix

T = 7
H = 64
RNG = np.random.default_rng(0)
TEXTURE = np.kron(RNG.integers(60, 200, (40, 40, 3)), np.ones((4, 4, 1)))
Y, X = np.mgrid[:H, :H]


def disc(background, x, y):
    picture = background.copy()
    picture[(X - x) ** 2 + (Y - y) ** 2 < 100] = (255, 30, 30)
    return picture


def clip(frame):
    return np.clip(np.stack([frame(t) for t in range(T)]), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def scores():
    still = TEXTURE[:H, :H]
    noise = RNG.normal(size=(T, H, H, 3))
    shaken = np.array([(0, 0), (2, -1), (-2, 2), (1, 2), (-1, -2), (2, 1), (-2, 0)]) + 20
    clips = {
        "still": clip(lambda t: still),
        "slow object": clip(lambda t: disc(still, 15 + 2 * t, 32)),
        "fast object": clip(lambda t: disc(still, 12 + 5 * t, 32)),
        "pan": clip(lambda t: TEXTURE[2 * t : 2 * t + H, t : t + H]),
        "shake": clip(
            lambda t: TEXTURE[shaken[t, 0] : shaken[t, 0] + H, shaken[t, 1] : shaken[t, 1] + H]
        ),
        "some grain": clip(lambda t: still + 6 * noise[t]),
        "much grain": clip(lambda t: still + 20 * noise[t]),
        "flicker": clip(lambda t: still * (0.8 if t % 2 else 1)),
        "object flickers": clip(lambda t: disc(still, 32, 32) if t % 2 else still),
    }
    result = Motion().score(np.stack(list(clips.values())), [""] * len(clips))
    return {
        name: (float(tc), float(dd))
        for name, tc, dd in zip(clips, result["TC"], result["DD"], strict=True)
    }


def test_score_still_video(scores):
    assert scores["still"] == (1.0, 0.0)


def test_score_moving_object_and_camera(scores):
    for name in ("slow object", "fast object", "pan"):
        assert scores[name][0] > 0.985
        assert scores[name][0] > max(
            scores[bad][0] for bad in ("flicker", "shake", "some grain", "object flickers")
        )


def test_score_noise(scores):
    assert scores["still"][0] > scores["some grain"][0] > scores["much grain"][0]
    assert max(scores["some grain"][1], scores["much grain"][1]) < 0.05


def test_score_speed(scores):
    assert scores["slow object"][1] == pytest.approx(2 / 6, abs=0.02)
    assert scores["fast object"][1] == pytest.approx(5 / 6, abs=0.1)
    assert scores["pan"][1] == pytest.approx(np.hypot(2, 1) / 6, abs=0.02)


def test_score_in_any_batch():
    videos = RNG.integers(0, 256, (3, 3, 16, 24, 3), np.uint8)
    together = Motion().score(videos, [""] * 3)
    alone = Motion().score(videos[1:2], [""])
    assert together["TC"][1] == alone["TC"][0] and together["DD"][1] == alone["DD"][0]


def test_score_single_frame():
    assert all(
        np.isnan(v).all()
        for v in Motion().score(np.zeros((2, 1, 8, 8, 3), np.uint8), ["", ""]).values()
    )


def test_score_tiny_and_large_videos():
    for shape in ((1, 2, 5, 9, 3), (1, 2, 97, 130, 3)):
        assert np.isfinite(Motion().score(RNG.integers(0, 256, shape, np.uint8), [""])["TC"]).all()


def test_block_matrix_rows():
    matrix = block_matrix(19)
    assert matrix.shape == (3, 19)
    np.testing.assert_allclose(matrix.sum(1), 1)


# --------------------------------------------------------------------------------- files and times


def pan(fps, seconds=4, speed=12):
    """A texture that moves by `speed` pixels of 64 per second."""
    times = np.arange(seconds * fps) / fps
    texture = np.kron(RNG.integers(60, 200, (20, 30, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    steps = np.round(speed * times).astype(int)
    return np.stack([texture[:64, step : step + 96] for step in steps]), times


@pytest.mark.slow
@pytest.mark.parametrize("fps", [5, 8, 10, 12, 16, 24, 30])
def test_score_dd_of_any_frame_rate(fps):
    video, times = pan(fps)
    scores = Motion().score(video[None], [""], times=times[None])
    assert scores["DD"][0] == pytest.approx(12 / 8 / 6, rel=0.2)


def test_score_dd_of_uneven_times():
    video, times = pan(24)
    chosen = np.sort(np.random.default_rng(0).choice(len(times), 60, replace=False))
    scores = Motion().score(video[None, chosen], [""], times=times[None, chosen])
    assert scores["DD"][0] == pytest.approx(12 / 8 / 6, rel=0.2)


def test_score_with_times_of_eight_per_second_is_score():
    video, times = pan(8)
    timed = Motion().score(video[None], [""], times=times[None])
    assert timed == Motion().score(video[None], [""])


@pytest.mark.parametrize(
    ("times", "indices"),
    [
        ([0.0], [0]),
        ([0.0, 5.0], [0, 1]),
        (np.arange(9) / 8, range(9)),
        (np.arange(9) / 5 + 3, range(9)),
        (np.arange(17) / 16, range(0, 17, 2)),
        (np.arange(25) / 24, range(0, 25, 3)),
        ([0.0, 0.1, 0.11, 1e12], [0, 2, 3]),
    ],
)
def test_thinned_frames(times, indices):
    np.testing.assert_array_equal(motion.thinned(np.array(times)), list(indices))


def test_long_motion_scores_equal_in_parts(monkeypatch):
    video, _ = pan(8)
    whole = motion.motion_scores(video)
    for pairs in (5, 16, 30):
        monkeypatch.setattr(motion, "PAIRS", pairs)
        np.testing.assert_allclose(motion.long_motion_scores(video), whole, rtol=1e-5)


def test_reduce_frame_scores_the_same():
    video = RNG.integers(0, 256, (3, 90, 130, 3), np.uint8)
    reduced = np.stack([Motion().reduce_frame(frame) for frame in video])
    assert reduced.shape == (3, 64, 92, 3)
    np.testing.assert_allclose(
        motion.motion_scores(reduced), motion.motion_scores(video), rtol=1e-4
    )
