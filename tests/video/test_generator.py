"""The Generator interface: defaults, adapters, and what is refused."""

import numpy as np
import pytest

from pav_jax.errors import BadInput
from pav_jax.video import GenerationConfig, Generator, VideoModel, as_generator, load_generator
from pav_jax.video.generator import NOT_FINITE


class Constant(Generator):
    fingerprint = "constant"

    def __init__(self, value=7, dtype=np.uint8):
        self.value = value
        self.dtype = dtype

    def generate(self, prompts, *, seed):
        return np.full((len(prompts), 2, 4, 4, 3), self.value, self.dtype)


def solid(prompts, seeds):
    return np.ones((len(prompts), 1, 4, 4, 3), np.uint8) * np.reshape(seeds, (-1, 1, 1, 1, 1))


def test_start_default_runs_generate():
    batch = Constant().start(["a", "b"], [1, 2])()
    assert batch.errors == [None, None]
    assert batch.videos.shape == (2, 2, 4, 4, 3) and batch.videos.dtype == np.uint8


def test_start_default_reports_nan():
    batch = Constant(np.nan, float).start(["a"], [1])()
    assert batch.errors == [NOT_FINITE] and not batch.videos.any()


def test_start_default_refuses_other_shapes():
    with pytest.raises(BadInput) as error:
        as_generator(lambda prompts, seeds: np.zeros((2, 4, 4, 3))).start(["a"], [1])()
    assert error.value.field == "generate"


def test_generator_defaults():
    generator = Constant()
    assert (generator.fps, generator.settings, generator.cost()) == (8.0, None, None)
    with pytest.raises(BadInput) as error:
        generator.with_settings(height=4)
    assert error.value.source == "generator"


def test_cost_is_that_of_the_settings():
    generator = Constant()
    generator.settings = GenerationConfig(num_frames=2, height=3, width=5, num_inference_steps=7)
    assert generator.cost() == 210


def test_as_generator_keeps_generators_and_wraps_functions():
    generator = Constant()
    assert as_generator(generator) is generator
    wrapped = as_generator(solid)
    assert wrapped.fingerprint == f"{__name__}.solid"
    assert as_generator(solid, "solid 2").fingerprint == "solid 2"
    assert wrapped.start(["a", "b"], [3, 4])().videos[:, 0, 0, 0, 0].tolist() == [3, 4]


@pytest.mark.parametrize("wrong", [3, "mini:generator", Constant, object()])
def test_as_generator_refuses_other_objects(wrong):
    with pytest.raises(BadInput) as error:
        as_generator(wrong)
    assert error.value.source == "generator"


def test_as_generator_without_fingerprint():
    class Anonymous(Generator):
        def generate(self, prompts, *, seed):
            return solid(prompts, seed)

    with pytest.raises(BadInput) as error:
        as_generator(Anonymous())
    assert error.value.field == "fingerprint"


def test_from_pretrained_embedded_generator():
    model = VideoModel.from_pretrained("mini:generator", dtype="float32")
    assert isinstance(model, Generator) and model.fps == 8


def test_from_pretrained_refuses_a_backend_path():
    with pytest.raises(BadInput) as error:
        VideoModel.from_pretrained("http://h/x")
    assert error.value.source == "http://h/x"


@pytest.mark.parametrize(
    "path, arguments, field",
    [
        ("http://h/x", dict(scheduler="DDIM"), "scheduler"),
        ("mini:generator", dict(options={"eta": 1}), "options"),
    ],
)
def test_load_generator_refuses_foreign_arguments(path, arguments, field):
    with pytest.raises(BadInput) as error:
        load_generator(path, **arguments)
    assert error.value.field == field
