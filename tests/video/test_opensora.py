"""The Open-Sora family behind `VideoModel`: captions, sizes, timesteps, what is refused. Parity is
in tests/parity."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.errors import BadInput
from pav_jax.models.opensora import vae as opensora_vae
from pav_jax.models.opensora.vae import OpenSoraVAEConfig
from pav_jax.video import VideoModel, opensora_captions
from pav_jax.video.opensora import Conditions
from pav_jax.video.schedulers.flow import shifted
from pav_jax.video.schedulers.rectified_flow import RectifiedFlow
from tests.video.tiny_opensora import random_model
from tests.video.variants import check_a_nan_stays_in_its_own_video

PROMPTS = ["a red ball", "two cats", "a ball bounces on grass"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("opensora")
    random_model(0).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return VideoModel.from_pretrained(folder, dtype="float32")


@pytest.fixture(scope="module")
def videos(model):
    return model.generate(PROMPTS, seed=[4, 5, 6])


@pytest.mark.slow
def test_generate_rows_are_independent(model, videos):
    assert videos.shape == (3, 34, 8, 4, 3) and videos.std() > 5
    np.testing.assert_array_equal(model.generate(PROMPTS[1], seed=5), videos[1:2])
    check_a_nan_stays_in_its_own_video(model, PROMPTS, [4, 5, 6], videos)


@pytest.mark.slow
def test_generate_negative_prompt(model, videos):
    mixed = model.generate(PROMPTS, ["", "dark", ""], seed=[4, 5, 6])
    np.testing.assert_allclose(mixed[[0, 2]].astype(int), videos[[0, 2]], atol=1)
    assert not np.array_equal(mixed[1], videos[1])


def test_with_scores():
    told = opensora_captions.with_scores
    assert told("a cat", 6.5) == "a cat aesthetic score: 6.5."
    assert (
        told("a cat", 6, 10.04, "pan left")
        == "a cat aesthetic score: 6.0. motion score: 10.0. camera motion: pan left."
    )
    assert (
        told("a cat aesthetic score: 4.", 6.5, 3.0)
        == "a cat aesthetic score: 4. motion score: 3.0."
    )
    assert told("a cat") == "a cat"


def test_caption_and_tokenize(model):
    assert model.family.caption("A  Cat (on GRASS)!") == "a cat on grass ! aesthetic score: 6.5."
    assert model.family.caption(" \n") == ""
    ids, cut = model.family.tokenize(["a cat", "", "two " * 30, "\ud800 a ball"], 14)
    assert ids.shape == (4, 14) and not ids[1].any() and ids[0].any() and cut == [2]


def test_default_settings(model):
    assert (model.settings.fps, type(model.family).generation.num_inference_steps) == (24, 30)
    assert type(model.family).generation.guidance_scale == 7.0
    assert Conditions() == Conditions(24.0, 6.5, None, None)
    assert RectifiedFlow.from_config({}) == RectifiedFlow(1000, False, True)


def test_plan_shift_by_size():
    flow = RectifiedFlow()
    np.testing.assert_allclose(flow.plan(4).timesteps, [1000, 750, 500, 250])
    # 51 frames of 720 x 1280 are 15 latent frames: r = sqrt(921600 / 262144 * 15)
    ratio = (720 * 1280 / 512**2 * 15) ** 0.5
    plan = flow.plan(4, 720 * 1280, 15)
    np.testing.assert_allclose(
        plan.timesteps[1], 1000 * ratio * 0.75 / (1 + (ratio - 1) * 0.75), rtol=1e-6
    )
    assert (np.diff(plan.timesteps) < 0).all() and (
        plan.timesteps[1:] > flow.plan(4).timesteps[1:]
    ).all()
    np.testing.assert_allclose(plan.lengths.sum(), 1.0, rtol=1e-6)
    assert shifted(np.array([0.0, 1.0]), 5.0).tolist() == [0.0, 1.0]
    assert RectifiedFlow(use_timestep_transform=False).plan(2, 10**6, 9).timesteps.tolist() == [
        1000,
        500,
    ]
    assert RectifiedFlow(use_discrete_timesteps=True).timesteps(3).tolist() == [1000, 667, 333]


def test_plan_straight_flow():
    noise = jnp.asarray([1.0, -2.0])
    video = jnp.asarray([0.25, 3.0])
    for steps in (1, 3, 7):
        plan = RectifiedFlow().plan(steps, 720 * 1280, 15)
        x = noise
        for i in range(steps):
            _, x = plan.step((), video - noise, jnp.asarray(i), x)
        np.testing.assert_allclose(x, video, rtol=1e-5)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(num_frames=20), "num_frames=20: .* nearest: 17 and 34"),
        (dict(num_frames=5), "num_frames=5: .* nearest: 1 and 17"),
        (dict(vae_tiling=True), "vae_tiling: the VAE of OpenSora decodes whole frames only"),
        (dict(height=7), "height=7: .* multiples of 2; nearest: 6 and 8"),
        (
            dict(latents=np.zeros((1, 3, 4, 4, 8))),
            r"latents: shape \[1, 3, 4, 4, 8\]; expected \(videos, channels, frames, height,",
        ),
    ],
)
def test_generate_invalid_arguments(model, arguments, message):
    with pytest.raises(BadInput, match=message):
        model.generate("a ball", **arguments)


@pytest.mark.parametrize(
    "part, fields, message",
    [
        (
            ".",
            {"conditions": {"aes": 6.5}},
            "conditions.aes is unknown; choose from fps, aesthetic_score",
        ),
        (".", {"conditions": ["fps"]}, r"conditions is \['fps'\]; a JSON object"),
        (".", {"conditions": ""}, "conditions is ''; a JSON object"),
        (".", {"conditions": {"fps": None}}, "conditions.fps is null; it must be a number"),
        (".", {"conditions": {"fps": float("nan")}}, "conditions.fps is nan; it must be a finite"),
        (
            ".",
            {"conditions": {"camera_motion": 3}},
            "conditions.camera_motion is 3; it must be text",
        ),
        (
            "scheduler",
            {"_class_name": "UniPC"},
            "_class_name is 'UniPC'; Open-Sora samples with 'RFLOW' only",
        ),
        ("transformer", {"in_channels": 3}, "the transformer takes 3 channels, the vae has 4"),
        (
            "transformer",
            {"caption_channels": 8},
            "caption_channels is 8, the text encoder's d_model 16",
        ),
        ("vae", {"micro_frame_size": None}, "micro_frame_size is None"),
    ],
)
def test_from_pretrained_mismatched_components(part, fields, message, tmp_path, folder):
    for path in folder.rglob("*.json"):
        copy = tmp_path / path.relative_to(folder)
        copy.parent.mkdir(exist_ok=True)
        copy.write_text(path.read_text())
    name = {".": "model_index.json", "scheduler": "scheduler_config.json"}.get(part, "config.json")
    path = tmp_path / part / name
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    with pytest.raises(BadInput, match=message) as error:
        VideoModel.from_pretrained(tmp_path)
    assert "\n" not in str(error.value)


def test_fingerprint_conditions(folder, model, tmp_path):
    for path in folder.rglob("*.*"):
        if path.is_file() and path.parent.name != "scheduler":
            copy = tmp_path / path.relative_to(folder)
            copy.parent.mkdir(exist_ok=True)
            copy.write_bytes(path.read_bytes())
    (tmp_path / "model_index.json").write_text('{"_class_name": "OpenSoraPipeline"}')
    assert VideoModel.from_pretrained(tmp_path, dtype="float32").fingerprint == model.fingerprint
    (tmp_path / "model_index.json").write_text(
        '{"_class_name": "OpenSoraPipeline", "conditions": {"aesthetic_score": 5}}'
    )
    assert VideoModel.from_pretrained(tmp_path, dtype="float32").fingerprint != model.fingerprint


def test_from_pretrained_float32_parameters(folder):
    params = VideoModel.from_pretrained(folder, dtype="bfloat16").params
    assert (
        params["transformer"]["rotary_frequencies"].dtype
        == params["vae"]["latent_scale"].dtype
        == jnp.float32
    )
    assert params["transformer"]["layers"]["spatial"]["scale_shift_table"].dtype == jnp.float32
    assert (
        params["transformer"]["layers"]["spatial"]["attention"]["qkv"]["kernel"].dtype
        == jnp.bfloat16
    )


@pytest.mark.slow
def test_decode_large_frames(model, monkeypatch):
    published = OpenSoraVAEConfig()
    assert (
        published.frames_at_once(51, 720 * 1280) == 1
        and published.frames_at_once(51, 240 * 426) == 4
    )
    family = model.family
    params = {"params": model.params["vae"]}
    shape = (1, *family.latent_shape(34, 8, 4)[0])
    z = jnp.asarray(np.random.default_rng(0).standard_normal(shape, dtype=np.float32))
    together = family.vae.apply(params, z, 34, method="decode")
    monkeypatch.setattr(opensora_vae, "MAX_PIXELS", 1)
    assert family.vae.config.frames_at_once(34, 32) == 1
    np.testing.assert_allclose(
        family.vae.apply(params, z, 34, method="decode"), together, atol=1e-5
    )
