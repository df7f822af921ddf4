"""`VideoModel`: batches, seeds, sizes, what is refused, what a NaN does. Parity with diffusers is
in tests/parity."""

import json
import warnings

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from pav_jax.errors import BadInput
from pav_jax.parallel.mesh import make_mesh
from pav_jax.records import Refinement
from pav_jax.storage.json_files import write_json
from pav_jax.video import VideoModel
from tests.video.tiny_pipeline import random_model
from tests.video.variants import check_a_nan_stays_in_its_own_video, share_compiled

PROMPTS = ["a red ball", "two cats", "a ball bounces on grass"]
SCHEDULER = {
    "_class_name": "CogVideoXDPMScheduler",
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
    "rescale_betas_zero_snr": True,
}
DEFAULTS = dict(
    num_frames=5, height=4, width=8, num_inference_steps=2, guidance_scale=3.0, batch_size=2
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    random_model(0, SCHEDULER, **DEFAULTS).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return VideoModel.from_pretrained(folder, dtype="float32")


@pytest.fixture(scope="module")
def videos(model):
    return model.generate(PROMPTS, seed=[4, 5, 6])


@pytest.mark.slow
def test_generate_rows_are_independent(model, videos):
    assert videos.shape == (3, 5, 4, 8, 3) and videos.dtype == np.uint8 and videos.std() > 5
    np.testing.assert_array_equal(model.generate(PROMPTS[1], seed=5), videos[1:2])
    np.testing.assert_array_equal(model.generate(PROMPTS[::-1], seed=[6, 5, 4]), videos[::-1])


def test_generate_seed_and_prompt(model, videos):
    other = model.generate([PROMPTS[0], PROMPTS[0]], seed=[5, 4])
    assert not np.array_equal(other[0], videos[0])
    assert not np.array_equal(model.generate(PROMPTS[1], seed=4)[0], videos[0])
    np.testing.assert_array_equal(other[1], videos[0])


def test_generate_negative_prompt(model, videos):
    shared = model.generate(PROMPTS, "dark", seed=[4, 5, 6])
    assert not np.array_equal(shared, videos)
    each = model.generate(PROMPTS, ["dark", "", "dark"], seed=[4, 5, 6])
    np.testing.assert_array_equal(each, [shared[0], videos[1], shared[2]])
    assert not np.array_equal(model.generate(PROMPTS[0], seed=4, zero_uncond=True)[0], videos[0])
    with pytest.raises(BadInput, match="negative_prompt: 2 texts for 3 prompts"):
        model.generate(PROMPTS, ["dark", ""])


def test_generate_image_refused(model):
    image = Image.new("RGB", (8, 8))
    for call in (
        lambda: model.generate(PROMPTS[0], image=image),
        lambda: model.start(PROMPTS[:1], [4], [image]),
    ):
        with pytest.raises(BadInput, match="image: VideoModel makes videos from texts alone") as e:
            call()
        assert e.value.field == "image" and "\n" not in str(e.value)


def test_generate_batch_progress(model):
    calls = []
    model.generate_batch(PROMPTS, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(2, 3), (3, 3)]
    assert model.generate([]).shape == (0, 5, 4, 8, 3)


def test_generate_batch_nan(model, videos):
    check_a_nan_stays_in_its_own_video(model, PROMPTS, [4, 5, 6], videos)


def test_make_request_truncates_long_prompt(folder):
    model = VideoModel.from_pretrained(folder, dtype="float32")
    long = "a red ball " * 4000
    with pytest.warns(UserWarning, match="1 of 2 prompts are longer than the 8 tokens"):
        request = model.make_request(["a ball", long])
    assert request.token_ids.shape == (2, 8)
    assert request.token_ids[1, -1] == model.family.text_encoder.config.eos_id
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.make_request(long)


def test_make_request_prompt_as_long_as_the_limit(folder):
    model = VideoModel.from_pretrained(folder, dtype="float32")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert model.make_request("a red ball a red ball a").token_ids.shape == (1, 8)


def test_make_request_takes_rewrites(model):
    typed = {"negative_prompt": "people", "settings": {"seed": "1011"}, "text": "a dog runs"}
    rewrite = Refinement("a dog", "a dog runs -seed 1011", 0, "m", **typed)
    own = model.make_request([rewrite, "a cat"], guidance_scale=6.0)
    texts = ["a dog runs", "a cat"]
    plain = model.make_request(texts, ["people", ""], [1011, 0], guidance_scale=6.0)
    assert own.seeds == plain.seeds == [1011, 0]
    np.testing.assert_array_equal(own.token_ids, plain.token_ids)
    assert own.negative_token_ids is not None and plain.negative_token_ids is not None
    np.testing.assert_array_equal(own.negative_token_ids, plain.negative_token_ids)


def test_tokenize_unusual_text(model):
    odd = ["", "\ud800 a ball", "<b>\x00\x1b[31m 🎈", "\n" * 10_000]
    assert model.family.tokenize(odd, 8)[0].shape == (4, 8)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(num_frames=6), r"num_frames=6: .* nearest: 4, 5, 8"),
        (dict(height=6), "height=6: .* multiples of 4; nearest: 4 and 8"),
        (dict(width=1), "width=1: .* nearest: 4 and 8"),
        (dict(num_inference_steps=0), "num_inference_steps=0"),
        (dict(num_inference_steps=1001), "1 to 1000"),
        (dict(seed=[1, 2]), "2 seeds for 1 prompts"),
        (dict(latents=np.zeros((1, 3, 2, 4, 4))), r"latents: shape \[1, 3, 2, 4, 4\]"),
    ],
)
def test_generate_invalid_arguments(model, arguments, message):
    with pytest.raises(BadInput, match=message):
        model.generate("a ball", **arguments)


def test_generate_prompt_of_other_type(model):
    with pytest.raises(BadInput, match="prompts: 3 is not a string"):
        model.generate(["a ball", 3])


@pytest.mark.slow
def test_from_pretrained_scheduler(folder):
    named = VideoModel.from_pretrained(
        folder, dtype="float32", scheduler="CogVideoXDDIMScheduler"
    ).family.scheduler
    assert named.config["prediction_type"] == "v_prediction" and not named.needs_noise
    whole = VideoModel.from_pretrained(
        folder, dtype="float32", scheduler={"_class_name": "CogVideoXDDIMScheduler"}
    )
    assert whole.family.scheduler.config == {"_class_name": "CogVideoXDDIMScheduler"}
    with pytest.raises(BadInput, match="CogVideoXDDIMScheduler, CogVideoXDPMScheduler"):
        VideoModel.from_pretrained(folder, scheduler="UniPC")


def test_fingerprint(folder, model, tmp_path):
    def fingerprint(**arguments):
        return VideoModel.from_pretrained(folder, **{"dtype": "float32"} | arguments).fingerprint

    assert fingerprint() == fingerprint(batch_size=5, fps=3) == model.fingerprint
    changed = [
        fingerprint(num_inference_steps=3),
        fingerprint(guidance_scale=2.0),
        fingerprint(dtype="bfloat16"),
        fingerprint(scheduler="CogVideoXDDIMScheduler"),
    ]
    assert len({model.fingerprint, *changed}) == 5
    random_model(1, SCHEDULER, **DEFAULTS).save_pretrained(tmp_path / "other")
    assert (
        VideoModel.from_pretrained(tmp_path / "other", dtype="float32").fingerprint
        != model.fingerprint
    )
    random_model(0, SCHEDULER, **DEFAULTS).save_pretrained(tmp_path / "same elsewhere")
    assert (
        VideoModel.from_pretrained(tmp_path / "same elsewhere", dtype="float32").fingerprint
        == model.fingerprint
    )


@pytest.mark.slow
def test_generate_on_mesh(model, videos):
    placed = VideoModel(model.family, model.params, model.settings, make_mesh())
    share_compiled(model, placed)
    np.testing.assert_allclose(placed.generate(PROMPTS, seed=[4, 5, 6]).astype(int), videos, atol=1)


@pytest.mark.slow
def test_generate_bfloat16(folder, videos):
    model = VideoModel.from_pretrained(folder, dtype="bfloat16")
    assert model.params["transformer"]["proj_out"]["kernel"].dtype == jnp.bfloat16
    made = model.generate_batch(PROMPTS, seed=[4, 5, 6])
    assert made.errors == [None] * 3
    assert np.abs(made.videos.astype(int) - videos).mean() < 8


def test_from_pretrained_invalid_folder(folder, tmp_path):
    def copy(name):
        random_model(0, SCHEDULER, **DEFAULTS).save_pretrained(tmp_path / name)
        return tmp_path / name

    def refused(broken, message, **arguments):
        with pytest.raises(BadInput, match=message) as error:
            VideoModel.from_pretrained(broken, **arguments)
        assert "\n" not in str(error.value)

    refused(tmp_path / "nowhere", "no such folder")
    refused("nowhere", "no such folder")
    refused(tmp_path, "model_index.json: no such file")
    refused(folder, "dtype='int8': choose one of float32, bfloat16, float16", dtype="int8")
    refused(folder, "unknown field 'stepz'", stepz=3)

    broken = copy("vae")
    (broken / "vae").rename(broken / "no vae")
    refused(broken, "folder 'vae' is missing")
    broken = copy("class")
    write_json(broken / "model_index.json", {"_class_name": "LTXPipeline"})
    refused(broken, "'LTXPipeline'; supported: CogVideoXPipeline, OpenSoraPipeline, WanPipeline")
    broken = copy("json")
    (broken / "model_index.json").write_text('{"_class_name": ')
    refused(broken, "not valid JSON")
    broken = copy("tokenizer")
    for path in (broken / "tokenizer").iterdir():
        path.unlink()
    refused(broken, "no tokenizer.json")
    broken = copy("half")
    weights = broken / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    refused(broken, "incomplete or corrupt safetensors file")
    broken = copy("text")
    config = json.loads((broken / "text_encoder" / "config.json").read_text())
    write_json(broken / "text_encoder" / "config.json", config | {"d_ff": 25})
    refused(broken, "has shape")
    broken = copy("settings")
    write_json(broken / "pav_generation.json", {"num_inference_steps": "many"})
    refused(broken, "num_inference_steps='many'")
