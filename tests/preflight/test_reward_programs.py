"""The programs of the rewards."""

import jax.numpy as jnp
import pytest

from pav_jax.config import load
from pav_jax.parallel.mesh import make_mesh
from pav_jax.preflight import reward_programs
from pav_jax.rewards.videoscore import TOKENS

HOST = list(make_mesh().devices.flat)


@pytest.mark.slow
def test_build_mini():
    config = load("configs/mini.py")
    with config.unlocked():
        config.rewards.entries.motion = {}
    batches = {program.name: program.batch for program in reward_programs.build(config, HOST)}
    assert batches == {
        "CLIP images": "32 images of 128 x 128",
        "CLIP texts": "16 texts",
        "motion": "a video of 9 x 64 x 64",
        "MPS": "8 videos, 4 frames of 64 x 64",
        "VideoScore, frames": "64 frames of 48 x 48",
        "VideoScore, decoder": f"16 videos of 5 frames, as {3 * TOKENS} tokens",
    }


@pytest.mark.slow
def test_build_published_sizes():
    config = load("configs/rewards_full.py")
    config.check.num_examples = 100
    programs = reward_programs.build(config, HOST)
    assert [(program.name, program.batch) for program in programs] == [
        ("CLIP images", "32 images of 480 x 720"),
        ("CLIP texts", "16 texts"),
        ("MPS", "8 videos, 4 frames of 480 x 720"),
        ("VideoScore, frames", "4 frames of 480 x 720"),
        ("VideoScore, decoder", "1 videos of 16 frames, as 1536 tokens"),
    ]
    # a video has 16 frames, 4 per run of the vision tower, and is one run of the decoder
    frames, decoder = (program.phases[0].num_runs for program in programs[3:])
    assert frames == 4 * decoder == 4 * 100 * (1 + 8 * 3 + 2 * 5)
    float_inputs = [
        sum(
            aval.size
            for aval in program.trace().jaxpr.in_avals
            if jnp.issubdtype(aval.dtype, jnp.floating)
        )
        for program in (programs[2], programs[4])
    ]
    # nearly all of them are parameters
    assert float_inputs == pytest.approx([1.1046e9, 8.2717e9], rel=1e-3)


@pytest.mark.slow
def test_build_judges_published_sizes():
    config = load("configs/rewards_full.py")
    config.check.num_examples = 100
    config.rewards.held_out = ()
    with config.unlocked():
        config.rewards.entries = {
            "videoreward": dict(path="KwaiVGI/VideoReward", dtype="bfloat16"),
            "hpsv3": dict(path="MizzenAI/HPSv3", dtype="bfloat16"),
        }
    programs = reward_programs.build(config, HOST)
    # VideoReward reads 2 frames per second of 49 at 8 per second, HPSv3 4 pictures
    assert {program.name: (program.batch, program.phases[0].num_runs) for program in programs} == {
        "VideoReward, frames": ("2 x 2 frames of 364 x 532", 10500),
        "VideoReward, decoder": ("1 rows of 12 frames, as 2304 tokens", 3500),
        "HPSv3, frames": ("2 x 2 frames of 364 x 532", 7000),
        "HPSv3, decoder": ("1 rows of 1 frames, as 832 tokens", 14000),
    }
    float_inputs = {
        program.name: sum(
            aval.size
            for aval in program.trace().jaxpr.in_avals
            if jnp.issubdtype(aval.dtype, jnp.floating)
        )
        for program in programs
        if "decoder" in program.name
    }
    # nearly all of them are parameters, of Qwen2-VL-2B and of 7B without its output matrix
    expected = {"VideoReward, decoder": 2.2089e9, "HPSv3, decoder": 7.7458e9}
    assert float_inputs == pytest.approx(expected, rel=2e-3)
