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


@pytest.mark.slow
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
@pytest.mark.parametrize("swap", [False, True])
def test_build_experts(swap):
    """One program with both experts, or one for each that is swapped in."""
    config = load("configs/wan22_a14b.py")
    config.generator.swap_experts = swap
    config.generator.mesh.fsdp = 1
    config.generator.batch_size = 1
    programs = generator_programs.build(config, list(make_mesh().devices.flat))
    names = [program.name for program in programs if program.name.startswith(("deno", "trans"))]
    assert names == (["transformer", "transformer_2"] if swap else ["denoiser"])
    for program in programs[1 : 1 + len(names)]:
        assert program.trace().jaxpr.eqns
    if swap:
        assert programs[1].batch.endswith("40 steps, from 0 to 26")
        assert programs[2].trace().out_info.shape == (1, 21, 60, 104, 16)


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
    """For each size of tiles, the largest first, a program for each resolution of the first chunk
    and of the next ones, and one that joins the tiles."""
    config = load("configs/cogvideox_2b.py")
    config.generator.mesh.fsdp = 1
    config.generator.batch_size = 1
    programs = generator_programs.build(config, list(make_mesh().devices.flat))
    *parts, joining = programs[2:]
    levels = range(4)
    assert [program.name for program in parts] == [
        f"VAE, tiles of {h} x {w}, {chunk} at {h * 2**level} x {w * 2**level}"
        for h, w in ((30, 45), (30, 18), (10, 45), (10, 18))
        for chunk in ("first chunk", "next chunks")
        for level in levels
    ]
    runs = [program.phases[0].num_runs / joining.phases[0].num_runs for program in parts]
    # 4, 2, 2 and 1 tiles; 9 latent frames are 3 + 2 + 2 + 2
    assert runs == [n for n in (4, 12, 2, 6, 2, 6, 1, 3) for _ in levels]
    frames = [[x for x in part.earlier_results if x.shape[-1] == 3] for part in parts]
    num_frames = [n for n in (12, 15, 20, 23, 28, 31, 32, 35) for _ in levels]
    assert [len(pieces) for pieces in frames] == num_frames
    # besides frames, the caches of the preceding resolutions, and of the following ones too
    assert len(parts[0].earlier_results) == 12 < len(parts[1].earlier_results)
    assert len(parts[4].earlier_results) > 15
    chunks = {(9 if i % 4 == 0 else 8, x.shape[1]) for i, x in enumerate(frames[-1])}
    assert chunks == {(9, 9), (8, 8)}
    assert frames[0][0].shape == (1, 9, 240, 360, 3)
    assert frames[0][0].dtype == jnp.bfloat16
    pixels, finite = joining.trace().out_info
    assert pixels.shape == (1, 33, 480, 720, 3) and finite.shape == (1,)
