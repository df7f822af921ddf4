"""The initial parameters of the second generator's VAE make it a codec of 4 x 4 x 4 blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.mini.render import to_unit
from pav_jax.mini.training import vae_trainer
from pav_jax.mini.training.wan_vae import CONFIG, linear_params
from pav_jax.mini.world import draw_scene
from pav_jax.models.wan.vae import WanVAE
from tests.mini.test_render import render

pytestmark = pytest.mark.slow

INSIDE = np.s_[:, :, 8:-8, 8:-8]  # padding is zero


@pytest.fixture(scope="module")
def reconstruct():
    vae = WanVAE(CONFIG)
    params = linear_params(vae_trainer.init_params(vae))
    run = jax.jit(lambda p, video: vae.apply({"params": p}, video)[0])
    return lambda video: np.asarray(run(params, jnp.asarray(video, jnp.float32)))


def test_linear_params_smooth_colours(reconstruct):
    colours = np.random.default_rng(0).uniform(-1, 1, (16, 1, 1, 1, 3))
    slope = np.linspace(-0.5, 0.5, 64)[:, None, None] * np.linspace(-0.5, 0.5, 64)[:, None]
    video = np.broadcast_to(0.6 * colours + slope, (16, 9, 64, 64, 3))
    assert np.abs(reconstruct(video) - video)[INSIDE].max() < 0.07


def test_linear_params_brightness_of_frame_pairs(reconstruct):
    """Only changes within two frames are lost."""
    pairs = np.random.default_rng(1).uniform(-0.6, 0.6, (16, 5, 1, 1, 3))
    video = np.broadcast_to(np.repeat(pairs, 2, axis=1)[:, 1:], (16, 9, 64, 64, 3))
    assert np.abs(reconstruct(video) - video)[INSIDE].max() < 0.07


def test_linear_params_error_of_clips(reconstruct):
    rng = np.random.default_rng(30)
    video = np.asarray(to_unit(render([draw_scene(rng) for _ in range(16)])))
    blocks = video[:, 1:].reshape(16, 2, 4, 16, 4, 16, 4, 3).mean((2, 4, 6), keepdims=True)
    blocks = np.broadcast_to(blocks, (16, 2, 4, 16, 4, 16, 4, 3)).reshape(16, 8, 64, 64, 3)
    result = reconstruct(video)
    error = np.square(result - video)[:, 1:].mean()
    assert error < 1.1 * np.square(blocks - video[:, 1:]).mean()
    # every clip keeps its mean colour
    assert np.abs(result.mean((1, 2, 3)) - video.mean((1, 2, 3))).max() < 0.1
