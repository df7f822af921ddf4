"""The same pixels on one device and on eight, however rows, weights, heads and tokens are
spread."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from pav_jax.errors import BadInput
from pav_jax.models.cogvideox.vae import CogVideoXVAE
from pav_jax.parallel.mesh import generator_meshes, make_mesh
from pav_jax.video import VideoModel, guidance, programs
from tests.cpu_devices import run_on_cpu_devices
from tests.video import tiny_opensora
from tests.video.tiny_pipeline import random_model

SCHEDULER = {
    "_class_name": "CogVideoXDPMScheduler",
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
    "rescale_betas_zero_snr": True,
}
# (kind, mesh, devices for text encoder and VAE, settings); 26 tokens and 2 heads in "5b"
SPREAD = [
    ("5b", dict(data=8), 0, dict()),
    ("5b", dict(tensor=2, sequence=4), 0, dict(sequence_attention="ring")),  # tokens are padded
    ("5b", dict(data=2, fsdp=2, sequence=2), 0, dict()),  # auto: ulysses
    ("1.5", dict(data=2, fsdp=2), 4, dict(cfg_parallel=True, vae_tiling=True)),
]
PROGRAM = """
import json, sys
import jax, numpy as np
from pav_jax.parallel.mesh import generator_meshes
from pav_jax.video import VideoModel
from tests.video.test_on_meshes import SPREAD
prompts = ["a red ball", "two cats"] * 4
results = []
for kind, sizes, side, settings in SPREAD:
    mesh, side = generator_meshes(8, sizes, side)
    model = VideoModel.from_pretrained(
        f"{sys.argv[1]}/{kind}", dtype="float32", mesh=mesh, auxiliary_mesh=side, **settings
    )
    batch = model.generate_batch(prompts, "dark", seed=range(8))
    want = np.load(f"{sys.argv[1]}/{kind}.npy").astype(int)
    kernels = jax.tree.leaves(model.params["transformer"])
    kernel = max(kernels, key=lambda x: x.size // x.addressable_data(0).size)
    vae_weight = jax.tree.leaves(model.params["vae"])[0]
    shared = kernel.sharding.device_set & vae_weight.sharding.device_set
    videos = batch.videos
    finite = batch.errors == [None] * len(batch.errors)
    num_parts = kernel.size // kernel.addressable_data(0).size
    results.append([int(np.abs(videos - want).max()), finite, num_parts, len(shared)])
print(json.dumps(results))
"""


@pytest.mark.slow
def test_generate_on_eight_devices(tmp_path):
    prompts = ["a red ball", "two cats"] * 4
    for kind, tiling in (("5b", "whole"), ("1.5", "tiled")):
        made = random_model(
            3,
            SCHEDULER,
            kind,
            num_frames=5,
            height=8,
            width=12,
            num_inference_steps=2,
            guidance_scale=3.0,
            batch_size=8,
        )
        vae = dataclasses.replace(
            made.family.vae.config, sample_height=24, sample_width=20
        )  # tiles of 6 x 5 latents
        family = dataclasses.replace(made.family, vae=CogVideoXVAE(vae))
        model = VideoModel(family, made.params, made.settings)
        model.save_pretrained(tmp_path / kind)
        videos = model.generate(prompts, "dark", seed=range(8), vae_tiling=tiling == "tiled")
        assert videos.std() > 5
        np.save(tmp_path / f"{kind}.npy", videos)
    output = run_on_cpu_devices(8, PROGRAM, tmp_path)
    results = json.loads(output.splitlines()[-1])
    assert all(difference <= 2 and finite for difference, finite, *_ in results), results
    assert [parts for *_, parts, _ in results] == [1, 2, 2, 2]  # how far the weights are spread
    # with encoder_vae_devices, the VAE has devices of its own
    assert [shared for *_, shared in results] == [8, 8, 8, 0]


DENOISED = """
import json
import jax, numpy as np
from pav_jax.parallel.mesh import make_mesh
from pav_jax.video import sampling
from pav_jax.video.programs import Programs
from pav_jax.video.step_schedule import StepSchedule
from pav_jax.video import wan
from tests.video import tiny_opensora, tiny_wan
results = []
short = StepSchedule((0, 1), (True, False))  # the second step has neither guidance nor layers
for tiny, sizes, halves, schedule in (
        (tiny_wan, dict(tensor=2, sequence=4), False, None),
        (tiny_wan, dict(data=2, fsdp=4), True, None),
        (tiny_opensora, dict(data=2, fsdp=2, tensor=2), False, None),
        (tiny_wan, dict(data=2, tensor=2, sequence=2), False, short)):
    made = tiny.random_model(3)
    family = made.family
    rng = np.random.default_rng(0)
    mesh = make_mesh(**sizes)
    # Wan: 27 tokens, padded
    latent_shape, keep = family.latent_shape(17 if tiny is tiny_opensora else 5, 24, 24)
    ids = rng.integers(1, 20, (8, family.sequence_length(None)))
    text = jax.jit(family.encode_text)(made.params, ids)
    negative = text[::-1].at[:, -2:].set(0)  # Open-Sora: captions of other lengths
    wan.TEXT_BLOCK = 3  # on the mesh, Wan reads its 8 tokens in blocks
    keys = sampling.video_keys(range(8))
    scales = np.full(2, 3.0, np.float32)
    arguments = (text, negative, None, keys, scales, latent_shape, keep, schedule)
    want = Programs(family).denoise({"transformer": made.params["transformer"]}, *arguments)
    spread = Programs(family.on_mesh(mesh, mesh, cfg_parallel=halves), mesh)
    params = spread.shard_params({"transformer": jax.device_get(made.params["transformer"])})
    ours = spread.denoise(params, *arguments)
    kernel = max(jax.tree.leaves(params), key=lambda x: x.size // x.addressable_data(0).size)
    results.append([float(np.abs(np.asarray(ours) - want).max()), float(np.std(want)),
                  kernel.size // kernel.addressable_data(0).size])
print(json.dumps(results))
"""


@pytest.mark.slow
def test_denoise_on_eight_devices():
    output = run_on_cpu_devices(8, DENOISED)
    results = json.loads(output.splitlines()[-1])
    assert all(difference < 1e-4 and spread > 0.1 for difference, spread, _ in results), results
    assert [parts for *_, parts in results] == [2, 4, 4, 2]


JOINED = """
import jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from pav_jax.models.tiling import TiledAxis, TileGrid
from pav_jax.parallel.mesh import make_mesh
grid = TileGrid(TiledAxis(6, 5, 2, 10), TiledAxis(5, 4, 2, 8), 8, 12)
clips = NamedSharding(make_mesh(data=4), PartitionSpec("data"))
def frames(size, length):
    shape = (4, length, 2 * size[0], 2 * size[1], 3)
    return jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=clips)
decoded = [
    [[frames(size, length) for length in (3, 2)] for _ in grid.positions(size)]
    for size in grid.sizes()
]
compiled = jax.jit(grid.join).lower(decoded).compile()
names = ("all-gather", "all-to-all", "all-reduce", "collective-permute")
print([name for name in names if name in compiled.as_text()])
print(compiled.output_shardings.shard_shape((4, 5, 16, 24, 3)))
"""


def test_join_tiles_of_a_clip_on_its_device():
    assert run_on_cpu_devices(4, JOINED).splitlines() == ["[]", "(1, 5, 16, 24, 3)"]


def test_stack_branches_order():
    latents = np.arange(3.0)[:, None]
    text = np.arange(3.0)[:, None] + 10
    for halves, order in ((False, [0, 10, 1, 11, 2, 12]), (True, [0, 1, 2, 10, 11, 12])):
        rows, texts = guidance.stack_branches(
            lambda x, axes: x, halves, (latents, text - 10), (latents, text)
        )
        assert texts[:, 0].tolist() == order and rows.shape == (6, 1)
        np.testing.assert_allclose(guidance.apply_guidance(texts, 3.0, halves)[:, 0], [30, 31, 32])


def test_mesh_that_does_not_divide_the_batch():
    mesh = jax.sharding.AbstractMesh((4, 1, 1, 1), ("data", "fsdp", "tensor", "sequence"))
    with pytest.raises(BadInput, match="generator.batch_size=6 is not a multiple of data=4"):
        programs.check_batch_size(mesh, None, 6, False)
    programs.check_batch_size(mesh, None, 6, True)
    with pytest.raises(
        BadInput, match="cfg_parallel: data=4 .* divide 2 . generator.batch_size = 2"
    ):
        programs.check_batch_size(mesh, None, 1, True)
    with pytest.raises(BadInput, match="encoder_vae_devices=9"):
        generator_meshes(1, dict(data=1), 9, jax.devices())
    with pytest.raises(BadInput, match="sequence_attention='star' is none of auto, ring, ulysses"):
        model = random_model(0, SCHEDULER)
        VideoModel(model.family, model.params, mesh=make_mesh(), sequence_attention="star")
    with pytest.raises(
        BadInput, match="generator.mesh.sequence=2: the tokens of Open-Sora are not spread"
    ):
        tiny_opensora.random_model(0).family.on_mesh(
            jax.sharding.AbstractMesh((1, 1, 1, 2), mesh.axis_names), None
        )
