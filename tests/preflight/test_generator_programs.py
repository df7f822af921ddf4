"""The generator's programs and the number of videos."""

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
    assert [program.name for program in programs] == ["text encoder", "denoiser", "VAE"]
    assert all(program.trace().jaxpr.eqns for program in programs)
    assert programs[1].batch == "16 videos of 9 x 64 x 64, 3 steps"
