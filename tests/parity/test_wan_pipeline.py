"""A whole Wan pipeline saved by `VideoModel` and run by diffusers: same prompt and noise, same
video."""

import shutil

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers.pipelines.wan import pipeline_wan

from pav_jax.errors import BadInput
from pav_jax.storage.json_files import read_json, write_json
from pav_jax.video import VideoModel, wan
from pav_jax.video.wan_text import clean
from tests.video.tiny_wan import EULER, UNIPC, random_model

pytestmark = pytest.mark.slow  # whole pipelines

PROMPTS = ["a red ball bounces  on grass &amp;amp; two", "two cats"]
NEGATIVE = "dark blurred"
STEPS = 5


def reloaded(folder) -> VideoModel:
    """As saved; it reads the eight tokens that the tiny tokenizer's texts have at most."""
    return VideoModel.from_pretrained(folder, dtype="float32")


def assert_equal_videos(model, folder, height, width, max_sequence_length=None, **guidance):
    """The model's videos are those of diffusers' pipeline of the folder, from the same noise."""
    pipeline = diffusers.WanPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    frames, *size, channels = model.family.latent_shape(5, height, width)[0]
    shape = (2, channels, frames, *size)
    latents = np.random.default_rng(5).standard_normal(shape, dtype=np.float32)
    theirs = pipeline(
        PROMPTS,
        negative_prompt=[NEGATIVE] * 2,
        num_inference_steps=STEPS,
        num_frames=5,
        height=height,
        width=width,
        latents=torch.tensor(latents),
        max_sequence_length=max_sequence_length or 8,
        output_type="np",
        **guidance,
    ).frames
    ours = model.generate(
        PROMPTS,
        NEGATIVE,
        height=height,
        width=width,
        latents=latents,
        max_sequence_length=max_sequence_length,
        **guidance,
    )
    assert ours.shape == theirs.shape == (2, 5, height, width, 3)
    assert ours.std() > 5  # a grey picture would prove nothing
    assert np.abs(ours - theirs * 255).max() <= 0.5 + 255 * 1e-4  # rounding to bytes, and 1e-4


@pytest.mark.parametrize(
    "scheduler, scales, length, text_block",
    [
        (UNIPC, (3.0, 1.0), None, 3),
        (EULER, (3.0,), None, 64),
        (EULER, (3.0,), 5, 4),
        (EULER, (3.0,), 12, 64),
    ],
)
def test_generate_equals_diffusers(scheduler, scales, length, text_block, tmp_path, monkeypatch):
    monkeypatch.setattr(wan, "TEXT_BLOCK", text_block)  # of 64 tokens: all that are read
    random_model(3, scheduler, num_inference_steps=STEPS).save_pretrained(tmp_path)
    model = reloaded(tmp_path)
    for scale in scales:
        assert_equal_videos(model, tmp_path, 16, 32, length, guidance_scale=scale)


def test_generate_ti2v_equals_diffusers(tmp_path):
    random_model(7, kind="ti2v", num_inference_steps=STEPS).save_pretrained(tmp_path)
    config = diffusers.WanPipeline.load_config(tmp_path)
    assert config["expand_timesteps"] and read_json(tmp_path / "vae/config.json")["is_residual"]
    model = reloaded(tmp_path)
    for scale in (3.0, 1.0):
        assert_equal_videos(model, tmp_path, 32, 48, guidance_scale=scale)


@pytest.mark.parametrize(
    "scheduler, scales, swap",
    [
        (UNIPC, (4.0, 3.0), False),
        (UNIPC, (4.0, 3.0), True),
        (UNIPC, (4.0, None), False),
        (UNIPC, (1.0, 3.0), False),
        (EULER, (3.0, 1.0), False),
    ],
)
def test_generate_experts_equal_diffusers(scheduler, scales, swap, tmp_path):
    """5 steps with shift 3: two of the first expert, three of the second."""
    random_model(9, scheduler, "a14b", num_inference_steps=STEPS).save_pretrained(tmp_path)
    model = VideoModel.from_pretrained(tmp_path, dtype="float32", swap_experts=swap)
    parts = [(part.first, part.stop) for part in model.family.denoiser_steps(STEPS)]
    assert parts == [(0, 2), (2, 5)]
    guidance = dict(zip(("guidance_scale", "guidance_scale_2"), scales, strict=True))
    assert_equal_videos(model, tmp_path, 16, 32, **guidance)


def test_generate_second_expert_only_equals_diffusers(tmp_path):
    random_model(9, kind="a14b", num_inference_steps=STEPS).save_pretrained(tmp_path)
    shutil.rmtree(tmp_path / "transformer")
    index = read_json(tmp_path / "model_index.json")
    only_second = index | {"transformer": [None, None], "boundary_ratio": 1.0}
    write_json(tmp_path / "model_index.json", only_second)
    model = reloaded(tmp_path)
    assert model.family.transformer.config.num_layers == 1
    assert_equal_videos(model, tmp_path, 16, 32, guidance_scale=3.0)


# tiles of 256 pixels every 192: four of different sizes, and a column narrower than the overlap
@pytest.mark.parametrize("kind, height, width", [("2.1", 264, 272), ("ti2v", 288, 432)])
def test_decode_tiles_equals_diffusers(kind, height, width, tmp_path):
    random_model(8, kind=kind, batch_size=1).save_pretrained(tmp_path)
    model = reloaded(tmp_path)
    vae = diffusers.AutoencoderKLWan.from_pretrained(tmp_path / "vae")
    vae.enable_tiling()
    shape, _ = model.family.latent_shape(3, height, width)
    latents = np.random.default_rng(6).standard_normal((1, *shape), dtype=np.float32)
    unscaled = np.asarray(model.family.vae.config.unscale(latents))
    with torch.no_grad():
        theirs = vae.decode(torch.tensor(unscaled.transpose(0, 4, 1, 2, 3))).sample
    theirs = theirs.numpy().transpose(0, 2, 3, 4, 1) * 127.5 + 127.5
    tiled, finite = model.programs.decode(model.params, jnp.asarray(latents), True)
    assert finite.all() and tiled.shape == theirs.shape == (1, 3, height, width, 3)
    assert np.abs(np.asarray(tiled) - theirs).max() <= 0.5 + 255 * 1e-4
    whole, _ = model.programs.decode(model.params, jnp.asarray(latents), False)
    assert not np.array_equal(whole, tiled)


def test_generate_max_sequence_length_above_the_limit():
    with pytest.raises(BadInput) as error:
        random_model(3).generate("two cats", max_sequence_length=513)
    assert error.value.field == "max_sequence_length"


def test_encode_text_equals_diffusers(tmp_path):
    random_model(6).save_pretrained(tmp_path)
    model = reloaded(tmp_path)
    pipeline = diffusers.WanPipeline.from_pretrained(tmp_path)
    prompts = [*PROMPTS, "", "a red ball " * 9]
    theirs, _ = pipeline.encode_prompt(
        prompts, do_classifier_free_guidance=False, max_sequence_length=8
    )
    ids, cut = model.family.tokenize(prompts, 8)
    ours = np.asarray(model.family.encode_text(model.params, jnp.asarray(ids)))
    assert np.abs(ours - theirs.detach().numpy()).max() < 1e-4 * np.abs(ours).max()
    assert (
        cut == [0, 3] and (ours[1, 3:] == 0).all() and ours[1, 2].any()
    )  # two words, the end, padding


def test_from_pretrained_of_a_folder_from_diffusers(tmp_path):
    model = random_model(4)
    model.save_pretrained(tmp_path / "ours")
    diffusers.WanPipeline.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    again = VideoModel.from_pretrained(tmp_path / "theirs", dtype="float32")
    jax.tree.map(np.testing.assert_array_equal, again.params, model.params)
    assert (
        again.family.sequence_length(None) == 8
        and again.settings.guidance_scale == 5.0
        and again.settings.fps == 16
    )
    assert again.family.scheduler.sigmas(7).tolist() == model.family.scheduler.sigmas(7).tolist()


@pytest.mark.parametrize(
    "text",
    [
        "  a\t cat \n\n on   grass ",
        "&lt;b&gt; &amp;amp; &amp;eacute;",
        "\u3000wide\u00a0space",
        "",
        " \n",
        "猫と&nbsp;犬 🎈",
        "control \x1c here",
    ],
)
def test_clean_equals_diffusers(text):
    assert clean(text) == pipeline_wan.prompt_clean(text)
