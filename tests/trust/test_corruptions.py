import numpy as np
import pytest

from pav_jax.trust.corruptions import (
    CAPTION_CORRUPTIONS,
    CORRUPTION_TYPES,
    FAMILIES,
    NUM_SEVERITIES,
    VIDEO_CORRUPTIONS,
    corrupt_caption,
    corrupt_video,
    split_types,
)


def make_video(T=9, H=64, W=80, seed=0):
    """A texture that drifts to the right over a coloured background, uint8 [T, H, W, 3]."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(40, 220, (H // 4 + 1, W // 4 + 1, 3))
    texture = np.kron(blocks, np.ones((4, 4, 1)))[:H, :W]
    texture = texture + rng.integers(-15, 15, (H, W, 3))
    return np.stack([np.roll(texture, 2 * t, axis=1) for t in range(T)]).astype(np.uint8)


@pytest.mark.parametrize("kind", VIDEO_CORRUPTIONS)
def test_corrupt_video_severity_increases(kind):
    videos = [make_video(seed=seed) for seed in range(12)]
    mean_difference = [
        np.mean(
            [
                np.abs(corrupt_video(x, kind, severity, seed).astype(float) - x).mean()
                for seed, x in enumerate(videos)
            ]
        )
        for severity in range(NUM_SEVERITIES)
    ]
    assert mean_difference[0] == 0
    assert np.all(np.diff(mean_difference) > 0)


@pytest.mark.parametrize("kind", VIDEO_CORRUPTIONS)
@pytest.mark.parametrize("shape", [(1, 7, 9), (2, 16, 16), (5, 30, 21)])
def test_corrupt_video_keeps_shape_and_input(kind, shape):
    x = make_video(*shape)
    original = x.copy()
    for severity in range(NUM_SEVERITIES):
        y = corrupt_video(x, kind, severity)
        assert y.shape == x.shape
        assert y.dtype == np.uint8
    np.testing.assert_array_equal(x, original)
    np.testing.assert_array_equal(corrupt_video(x, kind, 0), x)


def test_corrupt_video_seed():
    x = make_video()
    noisy = corrupt_video(x, "noise", 2, 5)
    np.testing.assert_array_equal(corrupt_video(x, "noise", 2, 5), noisy)
    assert (corrupt_video(x, "noise", 2, 6) != noisy).any()


def test_corrupt_video_temporal_types():
    x = make_video()
    assert (corrupt_video(x, "freeze", 4) == x[0]).all()
    np.testing.assert_array_equal(corrupt_video(x, "freeze", 2)[4:], np.repeat(x[4:5], 5, 0))
    np.testing.assert_array_equal(corrupt_video(x, "slow motion", 2)[::2], x[:5])
    np.testing.assert_array_equal(corrupt_video(x, "flicker", 3)[::2], x[::2])
    reordered = corrupt_video(x, "jump", 4, 1)
    assert sorted(map(bytes, reordered)) == sorted(map(bytes, x))
    assert (reordered != x).any()
    drifted = corrupt_video(x, "colour drift", 4)
    np.testing.assert_array_equal(drifted[0], x[0])
    assert drifted[-1, ..., 2].max() == 0


def test_corrupt_video_frame_types():
    x = make_video()
    pixelated = corrupt_video(x, "pixelation", 4)
    assert len(np.unique(pixelated[0, :8, :8].reshape(-1, 3), axis=0)) == 1
    assert corrupt_video(x, "low contrast", 4).std() < 0.2 * x.std()
    assert corrupt_video(x, "darkness", 4).mean() < 0.15 * x.mean()
    covered = (corrupt_video(x, "occlusion", 4)[0] == 128).all(-1).mean()
    assert 0.6 < covered < 0.8


def test_corrupt_caption_severities():
    prompt = "a red star falls"
    other = "two blue moons rising over the sea"
    wrong = [corrupt_caption(prompt, other, "wrong caption", s) for s in range(NUM_SEVERITIES)]
    assert wrong[0] == prompt
    assert wrong[-1] == other
    shared = [len(set(caption.split()) & set(prompt.split())) for caption in wrong]
    assert shared == [4, 3, 2, 1, 0]
    added = [corrupt_caption(prompt, other, "added caption", s) for s in range(NUM_SEVERITIES)]
    assert added[0] == prompt
    assert added[-1] == f"{prompt} and {other}"
    assert np.all(np.diff([len(caption.split()) for caption in added]) > 0)


def test_split_types_covers_every_family():
    tuning, validation = split_types()
    assert sorted(tuning + validation) == sorted(CORRUPTION_TYPES)
    assert set(CAPTION_CORRUPTIONS) < set(CORRUPTION_TYPES)
    families = set(FAMILIES.values())
    assert {FAMILIES[kind] for kind in tuning} == families
    assert {FAMILIES[kind] for kind in validation} == families
