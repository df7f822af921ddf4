"""The generator's programs and the number of videos."""

import jax.numpy as jnp
import pytest

from pav_jax.config import load
from pav_jax.parallel.mesh import make_mesh
from pav_jax.preflight import generator_programs


def test_count_videos():
    config = load()
    config.check.num_examples = 100
    # 8 rounds of 3 rewrites in evolve; 2 rounds of 5 samples in prefer
    assert generator_programs.count_videos(config) == 100 * (1 + 8 * 3) + 2 * 100 * 5


def test_build_mini():
    config = load("configs/mini.py")
    config.generator.num_inference_steps = 3
    programs = generator_programs.build(config, list(make_mesh().devices.flat))
    names = [program.name for program in programs]
    assert names == ["text encoder", "denoiser", "VAE, whole videos"]
    assert all(program.trace().jaxpr.eqns for program in programs)
    assert programs[1].batch == "16 videos of 9 x 64 x 64, 3 steps"


def test_build_chunks():
    """At each resolution one program for the first latent frame and one for each of the others; one
    that joins them."""
    config = load("configs/mini_wan.py")
    programs = generator_programs.build(config, list(make_mesh().devices.flat))[2:]
    assert [program.name for program in programs] == [
        *(f"VAE, first chunk at {size}" for size in ("16 x 16", "32 x 32", "64 x 64")),
        *(f"VAE, next chunks at {size}" for size in ("16 x 16", "32 x 32", "64 x 64")),
        "VAE, joining chunks",
    ]
    runs = [program.phases[0].num_runs / programs[-1].phases[0].num_runs for program in programs]
    assert runs == [1, 1, 1, 2, 2, 2, 1]
    # the last run has the caches of the other resolutions, and two pieces: frames, and where finite
    last = [x for x in programs[5].earlier_results if x.shape[-1] == 3 or len(x.shape) == 1]
    assert [x.shape for x in last] == [(16, 1, 64, 64, 3), (16,), (16, 4, 64, 64, 3), (16,)]
    assert last[0].dtype == jnp.uint8
    assert len(programs[0].earlier_results) == 0 < len(programs[1].earlier_results)
    assert not programs[-1].earlier_results
    frames, finite = programs[-1].trace().out_info
    assert frames.shape == (16, 9, 64, 64, 3) and finite.shape == (16,)


@pytest.mark.slow
def test_build_clips():
    """Programs for a clip in time and for a frame in space, and one that joins the frames."""
    config = load("configs/opensora_12.py")
    config.generator.mesh.fsdp = 1
    config.generator.batch_size = 1
    programs = generator_programs.build(config, list(make_mesh().devices.flat))[2:]
    assert [program.name for program in programs] == [
        "VAE, clips of 17 frames in time",
        "VAE, one frame at a time",
        "VAE, joining frames",
    ]
    clips, frames, joining = programs
    runs = [program.phases[0].num_runs / joining.phases[0].num_runs for program in programs]
    assert runs == [3, 51, 1]
    assert [x.shape for x in clips.earlier_results] == [(1, 17, 90, 160, 4)] * 2
    assert len(frames.earlier_results) == 2 * 50 and len(joining.earlier_results) == 3
    assert frames.earlier_results[0].shape == (1, 1, 720, 1280, 3)


@pytest.mark.slow
def test_build_tiles():
    """Two programs for each size of tiles, the largest first, and one that joins them."""
    config = load("configs/cogvideox_2b.py")
    config.generator.mesh.fsdp = 1
    config.generator.batch_size = 1
    programs = generator_programs.build(config, list(make_mesh().devices.flat))
    *parts, joining = programs[2:]
    assert [program.name for program in parts] == [
        f"VAE, tiles of {size}, {chunk}"
        for size in ("30 x 45", "30 x 18", "10 x 45", "10 x 18")
        for chunk in ("first chunk", "next chunks")
    ]
    runs = [program.phases[0].num_runs / joining.phases[0].num_runs for program in parts]
    # 4, 2, 2 and 1 tiles; 9 latent frames are 3 + 2 + 2 + 2
    assert runs == [4, 12, 2, 6, 2, 6, 1, 3]
    assert [len(program.earlier_results) for program in parts] == [12, 15, 20, 23, 28, 31, 32, 35]
    chunks = {
        (9 if i % 4 == 0 else 8, frames.shape[1])
        for i, frames in enumerate(parts[-1].earlier_results)
    }
    assert chunks == {(9, 9), (8, 8)}
    frames = parts[0].earlier_results[0]
    assert frames.shape == (1, 9, 240, 360, 3)
    assert frames.dtype == jnp.bfloat16
    frames, finite = joining.trace().out_info
    assert frames.shape == (1, 33, 480, 720, 3) and finite.shape == (1,)
