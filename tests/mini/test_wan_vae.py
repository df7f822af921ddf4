"""Before any training the second generator's VAE is a plain codec of 4 x 4 x 4 blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.mini import codec
from pav_jax.mini.render import to_unit
from pav_jax.mini.training.wan_vae import CONFIG, linear_start
from pav_jax.mini.world import draw_scene
from pav_jax.models.wan.vae import WanVAE
from tests.mini.test_render import render

INSIDE = np.s_[:, :, 8:-8, 8:-8]  # beyond the border there are zeros


@pytest.fixture(scope="module")
def through():
    vae = WanVAE(CONFIG)
    params = linear_start(codec.fresh(vae))
    run = jax.jit(lambda p, video: vae.apply({"params": p}, video)[0])
    return lambda video: np.asarray(run(params, jnp.asarray(video, jnp.float32)))


def test_colours_and_slow_changes_of_colour_pass(through):
    colours = np.random.default_rng(0).uniform(-1, 1, (16, 1, 1, 1, 3))
    slope = np.linspace(-0.5, 0.5, 64)[:, None, None] * np.linspace(-0.5, 0.5, 64)[:, None]
    video = np.broadcast_to(0.6 * colours + slope, (16, 9, 64, 64, 3))
    assert np.abs(through(video) - video)[INSIDE].max() < 0.07


def test_each_half_of_a_latent_frame_has_its_own_brightness(through):
    """Only what changes within two frames is lost."""
    pairs = np.random.default_rng(1).uniform(-0.6, 0.6, (16, 5, 1, 1, 3))
    video = np.broadcast_to(np.repeat(pairs, 2, axis=1)[:, 1:], (16, 9, 64, 64, 3))
    assert np.abs(through(video) - video)[INSIDE].max() < 0.07


def test_clips_lose_what_blocks_of_their_mean_colours_lose(through):
    rng = np.random.default_rng(30)
    video = np.asarray(to_unit(render([draw_scene(rng) for _ in range(16)])))
    blocks = video[:, 1:].reshape(16, 2, 4, 16, 4, 16, 4, 3).mean((2, 4, 6), keepdims=True)
    blocks = np.broadcast_to(blocks, (16, 2, 4, 16, 4, 16, 4, 3)).reshape(16, 8, 64, 64, 3)
    lost = np.square(through(video) - video)[:, 1:]
    assert lost.mean() < 1.1 * np.square(blocks - video[:, 1:]).mean()
    assert (
        np.abs(through(video).mean((1, 2, 3)) - video.mean((1, 2, 3))).max() < 0.1
    )  # every clip's own colour
