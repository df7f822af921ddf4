import dataclasses

import pytest

from benchmarks.generate_compile import programs
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
    decoders = ["decode_whole"]
    if tiled:
        num_sizes = len(vae.tile_grid(6, 8).sizes())
        assert num_sizes > 1
        # the first chunk of a tile has no cache
        numbers = range(1, 2 * num_sizes * vae.num_levels + 1)
        decoders = [*(f"decode_tile_level {number}" for number in numbers), "join_tiles"]
    assert [name for name, *_ in calls] == ["encoder", "denoiser", *decoders]
    _, program, arguments, static = calls[-1]
    assert program.lower(*arguments, **static).as_text()
