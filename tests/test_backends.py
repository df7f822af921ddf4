"""A generator of another kind is one line of a configuration: stages run on it, on videos and on
images."""

import numpy as np
import pytest

from pav_jax import components, defaults
from pav_jax.candidates.prompt_sets import PromptSet
from pav_jax.config import load
from pav_jax.errors import BadInput
from pav_jax.evaluate.benchmark import evaluate
from pav_jax.evolve.evolve import evolve
from pav_jax.evolve.registry import build_mixture
from pav_jax.preflight import generator_programs
from pav_jax.records import Candidate
from pav_jax.storage.records import read_segments
from tests import fakes
from tests.endpoint_server import Endpoint
from tests.video.test_http_generator import works
from tests.video.tiny_diffusers import save_image_pipeline


def parts(*overrides):
    return components.Components(
        load(overrides=[f"--config.generator.{override}" for override in overrides])
    )


@pytest.fixture
def serve():
    opened = []
    yield lambda behave: opened.append(Endpoint(behave)) or opened[-1]
    for endpoint in opened:
        endpoint.close()


def test_evolve_on_endpoint_with_failures(serve, tmp_path):
    endpoint = serve(
        lambda nth, body: (422, "", b"") if "fish" in body["prompt"] else works(nth, body)
    )
    settings = fakes.make_config(evolve__rounds=1, evolve__keep_videos="all")
    for _ in range(2):
        generator = parts(
            f"path={endpoint.url}",
            "num_inference_steps=3",
            "options={'model': 'm'}",
            "endpoint.concurrency=2",
            "endpoint.max_consecutive_failures=99",
        ).generator
        evolve(
            settings,
            fakes.PROMPTS,
            build_mixture(settings, fakes.FakeLanguageModel),
            generator,
            fakes.FakeSuite(),
            tmp_path,
        )
    made = read_segments(tmp_path / "pool", Candidate)
    assert len(made) == len(fakes.PROMPTS) * (1 + 3)
    assert {c.error for c in made if "fish" in c.refined} == {"no video: HTTP status 422"}
    assert all(
        c.error is None and (tmp_path / c.video).exists() for c in made if "fish" not in c.refined
    )
    assert set(endpoint.count) == {c.refined for c in made} and set(endpoint.count.values()) == {1}
    assert {body["model"] for body in endpoint.bodies} == {"m"} and {
        body["num_inference_steps"] for body in endpoint.bodies
    } == {3}


def test_evaluate_diffusers_images(tmp_path):
    folder = save_image_pipeline(tmp_path / "pipeline")
    generator = parts(
        f"path=diffusers:{folder}",
        "batch_size=2",
        "num_inference_steps=2",
        "height=16",
        "width=16",
        "num_frames=1",
        "options={'max_sequence_length': 8, 'use_resolution_binning': False, 'clean_caption':"
        " False}",
    ).generator
    config = defaults.get_config()
    config.update(generator=dict(batch_size=2), evaluate=dict(seeds=(0,), num_resamples=100))
    sets = {"near": PromptSet(("a red ball", "two cats"), (None, None))}
    systems = {"original": None, "sft": lambda prompts, seed: [f"{p} on grass" for p in prompts]}
    result = evaluate(
        config, systems, sets, generator, fakes.WordCountSuite(), tmp_path / "run", controls=False
    )
    assert result["sets"]["near"]["systems"]["sft"]["scores"]["AES"] is not None
    assert len(list((tmp_path / "run" / "videos").iterdir())) == 4
    video = generator.generate("two cats", seed=0)
    assert video.shape == (1, 1, 16, 16, 3) and video.std() > 5


def test_suite_temporal_reward_for_images():
    config = defaults.get_config()
    config.generator.num_frames = 1
    with config.unlocked():
        config.rewards.entries = {"motion": {}, "faithfulness": {}}
        config.rewards.weights = {}
    with pytest.raises(BadInput, match="TC, DD compare frames"):
        _ = components.Components(config).suite
    config.rewards.skip = ("TC", "DD", "FC")
    suite = components.Components(config).suite
    assert suite.names == ("FAITH",)
    assert suite.score(np.zeros((1, 1, 8, 8, 3), np.uint8), ["a cat"], ["a cat"])["FAITH"] == 1


def test_text_to_image_configuration():
    config = load("configs/t2i_pixart.py")
    assert config.generator.num_frames == 1 and config.rewards.skip == ("TC", "DD", "FC", "VR_MQ")
    assert not {"motion", "videoscore"} & set(config.rewards.entries)
    with pytest.raises(BadInput) as error:
        generator_programs.video_size(config)
    assert error.value.field == "generator.path"
