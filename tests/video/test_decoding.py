"""Pieces of the videos, decoded by programs of their own, are the videos that one program
decodes."""

import jax
import numpy as np
import pytest

from pav_jax.models.opensora.vae import OpenSoraVAEConfig
from pav_jax.video.decoding import join_frames, piece_axes
from pav_jax.video.programs import Programs
from tests.cpu_devices import run_on_cpu_devices
from tests.video import tiny_opensora, tiny_wan


def random_latents(family, frames, height, width):
    """Of two videos; the second has a NaN in its last frame."""
    shape, _ = family.latent_shape(frames, height, width)
    latents = np.random.default_rng(1).standard_normal((2, *shape), np.float32)
    latents[1, -1, 0, 0, 0] = np.nan
    return latents


def decode_whole(made, latents, *arguments):
    """The float video of one program, in pixels."""
    variables = {"params": made.params["vae"]}

    @jax.jit
    def decode(latents):
        return made.family.vae.apply(variables, latents, *arguments, method="decode")

    return (np.asarray(decode(latents)) * 0.5 + 0.5) * 255


def check_pixels(made, latents, expected):
    """Decodes in pieces, compares, and returns how many programs each function of pieces has."""
    programs = Programs(made.family)
    frames, finite = programs.decode(made.params, jax.numpy.asarray(latents), False)
    assert frames.dtype == np.uint8 and frames.shape == expected.shape
    assert finite.tolist() == [True, False]
    # rounding to integers and of floats
    assert np.abs(np.asarray(frames[0]) - np.clip(expected[0], 0, 255)).max() < 0.501
    return {
        function.__name__: program._cache_size()
        for function, program in programs._decoders.items()
        if function is not join_frames  # whose programs all families share
    }


@pytest.mark.slow
@pytest.mark.parametrize("latent_frames", [1, 3])
def test_decode_wan(latent_frames):
    made = tiny_wan.random_model(0)
    ratio = made.family.vae.config.temporal_ratio
    frames = (latent_frames - 1) * ratio + 1
    latents = random_latents(made.family, frames, 16, 24)
    expected = decode_whole(made, made.family.vae.config.unscale(latents))
    counts = check_pixels(made, latents, expected)
    # the first chunk and the others, at three resolutions
    assert counts == {"decode_chunk": 3 * min(latent_frames, 2)}


@pytest.mark.slow
@pytest.mark.parametrize(
    "frames, frames_at_once",
    [(34, 7), (34, 17), (1, 7)],
)
def test_decode_opensora(frames, frames_at_once, monkeypatch):
    made = tiny_opensora.random_model(0)
    monkeypatch.setattr(OpenSoraVAEConfig, "frames_at_once", lambda *_: frames_at_once)
    latents = random_latents(made.family, frames, 8, 4)
    expected = decode_whole(made, latents, frames)
    counts = check_pixels(made, latents, expected)
    assert counts == {"decode_clip": 1, "decode_frames": 1}


ON_MESHES = """
import jax, numpy as np
from pav_jax.parallel.mesh import make_mesh
from pav_jax.video.decoding import join_frames
from pav_jax.video.programs import Programs
from tests.video import tiny_opensora, tiny_wan

devices = jax.devices()
for tiny, size in ((tiny_wan, (13, 16, 24)), (tiny_opensora, (34, 8, 4))):
    made = tiny.random_model(0)
    shape, _ = made.family.latent_shape(*size)
    latents = np.random.default_rng(0).standard_normal((2, *shape), np.float32)
    expected, _ = Programs(made.family).decode(made.params, latents, False)
    for mesh, vae_mesh in (
        (make_mesh(data=2, devices=devices[:2]), None),
        (make_mesh(devices=devices[:1]), make_mesh(tensor=2, devices=devices[1:])),
    ):
        family = made.family.on_mesh(mesh, vae_mesh or mesh)
        programs = Programs(family, mesh, vae_mesh)
        params = programs.shard_params(made.params)
        frames, finite = programs.decode(params, jax.numpy.asarray(latents), False)
        difference = np.abs(np.asarray(frames, int) - np.asarray(expected, int)).max()
        counts = [
            program._cache_size()
            for function, program in programs._decoders.items()
            if function is not join_frames
        ]
        print(difference <= 1, finite.tolist(), counts, len(frames.sharding.device_set))
"""


@pytest.mark.slow
def test_decode_on_meshes():
    """A chunk's cache is sharded as the next chunk's, so there is no third program."""
    lines = run_on_cpu_devices(3, ON_MESHES).splitlines()
    wan, opensora = ([f"True [True, True] {counts} 2"] * 2 for counts in ([6], [1, 1]))
    assert lines == wan + opensora


def test_piece_axes():
    assert piece_axes(1, "batch") == ("batch",)
    assert piece_axes(5, "tiles") == ("tiles", None, None, None, None)
    assert piece_axes(6, "batch") == (None, "batch", None, None, None, None)
