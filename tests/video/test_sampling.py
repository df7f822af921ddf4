"""Noise that belongs to one video, and the guidance schedule."""

import jax
import numpy as np

from pav_jax.video import sampling


def test_guidance_scales_dynamic():
    timesteps = np.full(50, 20)
    timesteps[:2] = 999, 500
    scales = sampling.guidance_scales(timesteps, 6.0, dynamic=True)
    np.testing.assert_allclose(scales[:3], [2.29, 7.0, 1.09], atol=6e-3)
    assert (sampling.guidance_scales(timesteps, 6.0, dynamic=False) == 6).all()


def test_video_keys():
    small = jax.random.key_data(sampling.video_keys([0, 7, 2**31 - 1]))
    expected = [jax.random.key_data(jax.random.key(seed)) for seed in (0, 7, 2**31 - 1)]
    np.testing.assert_array_equal(small, expected)
    large = jax.random.key_data(sampling.video_keys([1, 2**32 + 1, 2**63 + 1, -1]))
    assert len({tuple(map(int, row)) for row in large}) == 4


def test_noise_per_video():
    draw = jax.jit(sampling.noise, static_argnums=2)
    together = draw(sampling.video_keys([3, 4, 5]), 1, (2, 4))
    np.testing.assert_array_equal(together[1], draw(sampling.video_keys([4]), 1, (2, 4))[0])
    assert not np.array_equal(together[1], draw(sampling.video_keys([4]), 2, (2, 4))[0])
