import dataclasses

import pytest

from benchmarks.generate_compile import programs
from pav_jax.video.programs import tile_sizes
from tests.video import tiny_pipeline


@pytest.mark.slow
@pytest.mark.parametrize("tiled", [False, True])
def test_programs_are_those_that_make_videos(tiled):
    model = tiny_pipeline.random_model(0, {"_class_name": "CogVideoXDDIMScheduler"})
    vae = dataclasses.replace(model.family.vae.config, sample_height=24, sample_width=20)
    family = dataclasses.replace(model.family, vae=model.family.vae.clone(config=vae))
    settings = dataclasses.replace(
        model.settings, batch_size=2, num_frames=9, height=12, width=16, vae_tiling=tiled
    )
    calls = list(programs(family, settings))
    decoders = ["decoder"]
    if tiled:
        num_sizes = len(tile_sizes(family, (2, 3, 6, 8, 4), tiled))
        assert num_sizes > 1
        # the first chunk of a tile has no cache
        numbers = range(1, 2 * num_sizes + 1)
        decoders = [*(f"tile_decoder {number}" for number in numbers), "tile_joiner"]
    assert [name for name, *_ in calls] == ["encoder", "denoiser", *decoders]
    _, program, arguments, static = calls[-1]
    assert program.lower(*arguments, **static).as_text()
