"""Texts are encoded once; the programs of two batches overlap."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.video import VideoModel, generation_config, programs
from pav_jax.video.decoding import to_pixels, whole_to_pixels
from tests.cpu_devices import run_on_cpu_devices
from tests.video import tiny_pipeline


class Family:
    """A stand-in that compiles at once: a video is one colour, its prompt's first letter."""

    transformer = types.SimpleNamespace(
        dtype=jnp.float32, config=types.SimpleNamespace(patch_volume=1, width=1)
    )
    scheduler = types.SimpleNamespace(config={}, timesteps=lambda steps: np.arange(steps))
    conditions = None
    tiles = False

    def __init__(self):
        self.encoded = []

    def axes(self):
        return {"text_encoder": (), "transformer": (), "vae": ()}

    def on_mesh(self, mesh, auxiliary_mesh, sequence_attention, cfg_parallel):
        return self

    def check_settings(self, settings):
        pass

    def guidance_scales(self, settings):
        return np.full(settings.num_inference_steps, settings.guidance_scale, np.float32)

    def denoiser_steps(self, num_steps):
        return []

    def default_size(self):
        return 1, 2, 2

    def latent_shape(self, frames, height, width):
        return (1, 2, 2, 1), 1

    def sequence_length(self, max_sequence_length):
        return 3

    def tokenize(self, prompts, length):
        return np.asarray([[len(p), ord(p[0]), 1] for p in prompts], np.int32), []

    def encode_text(self, params, ids):
        jax.debug.callback(lambda ids: self.encoded.extend(ids[:, 1].tolist()), ids)
        return ids.astype(jnp.float32)

    def denoise(self, params, latents, text, negative, keys, scales, step_schedule):
        return latents * 0 + text[:, 1, None, None, None, None] / 256

    def decode(self, params, latents, tiled, run):
        return run("whole videos", self.decode_whole, latents, tiled=tiled)

    def decode_whole(self, latents, *, tiled):
        return whole_to_pixels(jnp.repeat(latents, 3, axis=-1), latents)


def model(family, **settings):
    params = {"text_encoder": jnp.zeros(1), "transformer": jnp.zeros(1), "vae": jnp.zeros(1)}
    return VideoModel(
        family,
        params,
        generation_config.GenerationConfig(
            **{"guidance_scale": 1.0, "num_inference_steps": 1} | settings
        ),
    )


def test_encode_texts_cached():
    family = Family()
    made = model(family, batch_size=2)
    first = made.generate(["a", "b", "a"])
    again = made.generate(["b", "c"])
    jax.effects_barrier()
    assert [chr(c) for c in family.encoded if c] == [
        "a",
        "b",
        "c",
        "c",
    ]  # a batch has two rows: the last is repeated
    np.testing.assert_array_equal(again[0], first[1])


def test_encode_texts_evicts_oldest(monkeypatch):
    monkeypatch.setattr(programs, "MAX_CACHED_TEXTS", 2)
    family = Family()
    made = model(family)
    for prompt in "abac":  # a is used again, so b goes
        made.generate([prompt])
    made.generate(["a"])
    made.generate(["b"])
    jax.effects_barrier()
    assert [chr(c) for c in family.encoded] == ["a", "b", "c", "b"]


def test_decode_tiled():
    class Tiling(Family):
        tiles = True

        def decode_whole(self, latents, *, tiled):
            frames, finite = super().decode_whole(latents, tiled=tiled)
            return frames * 0 + (255 if tiled else 0), finite

    made = model(Tiling())
    assert made.generate(["a"]).max() == 0 and made.generate(["a"], vae_tiling=True).min() == 255
    assert model(Tiling(), vae_tiling=True).generate(["a"]).min() == 255


@pytest.mark.slow
@pytest.mark.parametrize(
    "latent_size, sizes",
    [
        ((8, 12), [(6, 5), (6, 4), (3, 5), (3, 4)]),
        ((5, 7), [(5, 5), (5, 3)]),
        ((6, 5), []),  # one tile
    ],
)
def test_decode_tiles_in_programs_of_their_own(latent_size, sizes):
    made = tiny_pipeline.random_model(0, {"_class_name": "CogVideoXDDIMScheduler"})
    vae = dataclasses.replace(made.family.vae.config, sample_height=24, sample_width=20)
    family = dataclasses.replace(made.family, vae=made.family.vae.clone(config=vae))
    ours = programs.Programs(family)
    shape = (2, 5, *latent_size, 4)
    latents = np.random.default_rng(0).standard_normal(shape, np.float32)
    latents[1, 0, 0, 0, 0] = np.nan
    latents = jnp.asarray(latents)
    frames, finite = ours.decode(made.params, latents, True)
    unscaled = family.vae.config.unscale(latents)
    variables = {"params": made.params["vae"]}
    video = jax.jit(lambda x: family.vae.apply(variables, x, tiled=True, method="decode"))(unscaled)
    expected, _ = to_pixels(video)
    assert finite.tolist() == [True, False]
    difference = np.abs(np.asarray(frames, int) - np.asarray(expected, int))
    assert frames.dtype == np.uint8 and difference.max() <= 1
    # the first chunk and the others, at each resolution
    num_programs = ours.decoder(family.decode_tile_level)._cache_size()
    assert num_programs == 2 * len(sizes) * vae.num_levels
    assert ours.decoder(family.decode_whole)._cache_size() == (0 if sizes else 1)


def test_generate_overlaps_batches(monkeypatch):
    """Devices work on what was started while the host waits, so the order of starts and waits is
    what overlaps them."""
    made = model(Family())
    order = []

    class Frames:
        def __init__(self, name):
            self.name = name

        def __array__(self, dtype=None, copy=None):
            order.append(f"wait {self.name}")
            return np.zeros((1, 1, 2, 2, 3), np.uint8)

    def denoise(params, text, *rest):
        order.append(f"denoise {chr(int(text[0, 1]))}")
        return text[:, None, None, None]

    def decode(params, latents, tiled):
        return Frames(chr(int(latents[0, 0, 0, 0, 1]))), np.ones(1, bool)

    monkeypatch.setattr(made.programs, "denoise", denoise)
    monkeypatch.setattr(made.programs, "decode", decode)
    made.generate(["a", "b", "c"])
    assert order == ["denoise a", "denoise b", "wait a", "denoise c", "wait b", "wait c"]


def test_start():
    made = model(Family(), batch_size=2)
    waiting = made.start(["a", "b"], [1, 2])
    other = made.start(["c"], 3)
    batch = waiting()
    np.testing.assert_array_equal(batch.videos, made.generate(["a", "b"], seed=[1, 2]))
    assert batch.errors == [None, None] and len(other().videos) == 1


def test_start_more_prompts_than_a_batch():
    made = model(Family(), batch_size=2)
    prompts = ["a", "b", "c"]
    np.testing.assert_array_equal(made.start(prompts, 3)().videos, made.generate(prompts, seed=3))


SETTLED = """
import jax, jax.numpy as jnp, numpy as np
from pav_jax.parallel.mesh import make_mesh
from pav_jax.video import sampling
from pav_jax.video.programs import Programs

class Slow:
    def slow(self, x):
        return jax.lax.fori_loop(0, 100_000, lambda i, x: jnp.sin(x), x)

    def encode_text(self, params, ids):
        return self.slow(ids.astype(jnp.float32))

    def denoise(self, params, latents, text, negative, keys, scales, step_schedule):
        return self.slow(latents)

    def decode(self, params, latents, tiled, run):
        return run("whole videos", self.decode_whole, latents)

    def decode_whole(self, latents):
        return self.slow(latents), jnp.ones(latents.shape[0], bool)

devices = jax.devices()
for mesh, side in ((make_mesh(data=2, devices=devices[:2]), None),
                   (make_mesh(devices=devices[:1]), make_mesh(tensor=2, devices=devices[1:]))):
    programs = Programs(Slow(), mesh, side)
    params = {name: 0 for name in ("text_encoder", "transformer", "vae")}
    text = programs.encode_texts(params, np.ones((2, 3), np.int32), 2)
    ready = [text.is_ready()]
    keys = sampling.video_keys([1, 2])
    latents = programs.denoise(params, text, None, None, keys, np.ones(1), (1, 2, 2, 3), 1)
    ready.append(latents.is_ready())
    ready += [x.is_ready() for x in programs.decode(params, latents, False)]
    print(ready)
"""


@pytest.mark.slow
def test_programs_run_sequentially_on_cpu_mesh():
    output = run_on_cpu_devices(3, SETTLED)
    assert output.splitlines() == [str([True] * 4)] * 2
