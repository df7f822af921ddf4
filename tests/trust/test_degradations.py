import numpy as np
import pytest

from pav_jax.trust.degradations import (
    FAMILIES,
    KINDS,
    SEVERITIES,
    TEXTUAL,
    VISUAL,
    degrade,
    halves,
    miscaption,
)


def video(T=9, H=64, W=80, seed=0):
    """A textured picture that drifts to the right over a coloured ground, uint8 [T, H, W, 3]."""
    rng = np.random.default_rng(seed)
    texture = np.kron(rng.integers(40, 220, (H // 4 + 1, W // 4 + 1, 3)), np.ones((4, 4, 1)))[
        :H, :W
    ]
    texture = texture + rng.integers(-15, 15, (H, W, 3))
    return np.stack([np.roll(texture, 2 * t, axis=1) for t in range(T)]).astype(np.uint8)


@pytest.mark.parametrize("kind", VISUAL)
def test_no_severity_is_no_damage_and_more_is_more(kind):
    seeds = range(12)
    damage = []
    for severity in range(SEVERITIES):
        moved = [
            np.abs(degrade(x, kind, severity, s).astype(float) - x).mean()
            for s in seeds
            for x in [video(seed=s)]
        ]
        damage.append(np.mean(moved))
    assert damage[0] == 0 and np.all(np.diff(damage) > 0)


@pytest.mark.parametrize("kind", VISUAL)
@pytest.mark.parametrize("shape", [(1, 7, 9), (2, 16, 16), (5, 30, 21)])
def test_any_size_stays_as_it_is(kind, shape):
    x = video(*shape)
    before = x.copy()
    for severity in range(SEVERITIES):
        y = degrade(x, kind, severity)
        assert y.shape == x.shape and y.dtype == np.uint8
    np.testing.assert_array_equal(x, before)
    np.testing.assert_array_equal(degrade(x, kind, 0), x)


def test_damage_depends_on_its_seed_alone():
    x = video()
    np.testing.assert_array_equal(degrade(x, "noise", 2, 5), degrade(x, "noise", 2, 5))
    assert (degrade(x, "noise", 2, 5) != degrade(x, "noise", 2, 6)).any()


def test_each_kind_does_what_its_name_says():
    x = video()
    assert (degrade(x, "freeze", 4) == x[0]).all()
    np.testing.assert_array_equal(degrade(x, "freeze", 2)[4:], np.repeat(x[4:5], 5, 0))
    np.testing.assert_array_equal(degrade(x, "slow motion", 2)[::2], x[:5])
    np.testing.assert_array_equal(degrade(x, "flicker", 3)[::2], x[::2])
    jumped = degrade(x, "jump", 4, 1)
    assert sorted(map(bytes, jumped)) == sorted(map(bytes, x)) and (jumped != x).any()
    assert len(np.unique(degrade(x, "pixelation", 4)[0, :8, :8].reshape(-1, 3), axis=0)) == 1
    assert (
        degrade(x, "low contrast", 4).std() < 0.2 * x.std()
        and degrade(x, "darkness", 4).mean() < 0.15 * x.mean()
    )
    hidden = (degrade(x, "occlusion", 4)[0] == 128).all(-1).mean()
    assert 0.6 < hidden < 0.8
    drift = degrade(x, "colour drift", 4)
    np.testing.assert_array_equal(drift[0], x[0])
    assert drift[-1, ..., 2].max() == 0


def test_captions_go_wrong_word_by_word():
    mine, other = "a red star falls", "two blue moons rising over the sea"
    wrong = [miscaption(mine, other, "wrong caption", s) for s in range(SEVERITIES)]
    kept = [len(set(w.split()) & set(mine.split())) for w in wrong]
    assert wrong[0] == mine and wrong[-1] == other and kept == [4, 3, 2, 1, 0]
    added = [miscaption(mine, other, "added caption", s) for s in range(SEVERITIES)]
    assert added[0] == mine and added[-1] == f"{mine} and {other}"
    assert np.all(np.diff([len(text.split()) for text in added]) > 0)


def test_both_halves_have_of_every_family():
    fixed, verified = halves()
    assert sorted(fixed + verified) == sorted(KINDS) and set(TEXTUAL) < set(KINDS)
    assert {FAMILIES[k] for k in fixed} == {FAMILIES[k] for k in verified} == set(FAMILIES.values())
    assert halves() == halves()
