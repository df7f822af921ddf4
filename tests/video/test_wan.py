"""The Wan family behind `VideoModel`: sizes, what is refused, NaNs, samplers. For parity see
tests/parity."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.errors import BadInput
from pav_jax.models.wan.vae import WanVAEConfig
from pav_jax.parallel import sharding_rules
from pav_jax.parallel.mesh import make_mesh
from pav_jax.storage.json_files import read_json, write_json
from pav_jax.video import VideoModel
from pav_jax.video.wan import check_tiles
from tests.video.tiny_wan import EULER, SMALL_SETTINGS, UNIPC, random_model
from tests.video.variants import check_a_nan_stays_in_its_own_video, share_compiled

PROMPTS = ["a red ball", "two cats", "a ball bounces on grass"]


@pytest.fixture(scope="module")
def model():
    return random_model(0)


@pytest.fixture(scope="module")
def videos(model):
    return model.generate(PROMPTS, seed=[4, 5, 6])


@pytest.mark.slow
def test_generate_rows_are_independent(model, videos):
    assert videos.shape == (3, 5, 16, 32, 3) and videos.std() > 5
    np.testing.assert_array_equal(model.generate(PROMPTS[1], seed=5), videos[1:2])
    check_a_nan_stays_in_its_own_video(model, PROMPTS, [4, 5, 6], videos)


@pytest.mark.slow
def test_generate_cleans_prompts(model, videos):
    np.testing.assert_array_equal(model.generate("  two \n cats ", seed=5), videos[1:2])
    assert not np.array_equal(model.generate("two dark cats", seed=5), videos[1:2])


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(num_frames=6), "num_frames=6: .* nearest: 5 and 7"),
        (dict(num_frames=500), "num_frames=500: .* nearest: 127"),
        (dict(guidance_scale_2=3.0), "guidance_scale_2=3: this model has no second expert; leave"),
        (dict(height=20), "height=20: .* nearest: 16 and 24"),
        (dict(width=1), "width=1: .* nearest: 8$"),
        (dict(num_inference_steps=1001), "1 to 1000"),
        (
            dict(latents=np.zeros((1, 3, 4, 4, 8))),
            r"latents: shape \[1, 3, 4, 4, 8\]; expected \(videos, channels, frames, height,",
        ),
    ],
)
def test_generate_invalid_arguments(model, arguments, message):
    with pytest.raises(BadInput, match=message):
        model.generate("a ball", **arguments)


def test_generate_ti2v_invalid_sizes():
    """Of Wan 2.2 TI2V-5B: a patch of the transformer has 2 x 2 latent pixels of 16 x 16 pixels."""
    family = random_model(0, kind="ti2v").family
    assert family.default_size() == (121, 704, 1280)
    vae = dataclasses.replace(
        family.vae.config, dim_mult=(1, 2, 4, 4), temperal_downsample=(False, True, True)
    )
    denoiser = dataclasses.replace(family.transformer.config, rope_max_seq_len=1024)
    family = dataclasses.replace(
        family,
        vae=family.vae.clone(config=vae),
        transformer=family.transformer.clone(config=denoiser),
    )
    assert family.latent_shape(121, 704, 1280) == ((31, 44, 80, 4), 31)
    for size, message in (
        ((121, 720, 1280), "height=720: .* nearest: 704 and 736"),
        ((121, 704, 1264), "width=1264: .* nearest: 1248 and 1280"),
        ((120, 704, 1280), "num_frames=120: .* nearest: 117 and 121"),
    ):
        with pytest.raises(BadInput, match=message):
            family.latent_shape(*size)


def test_from_pretrained_ti2v(tmp_path):
    random_model(0, kind="ti2v").save_pretrained(tmp_path)
    assert read_json(tmp_path / "model_index.json")["expand_timesteps"] is True
    (tmp_path / "pav_generation.json").unlink()
    again = VideoModel.from_pretrained(tmp_path)
    assert again.family.expand_timesteps and again.settings.fps == 24
    assert again.settings.guidance_scale == 5.0


def test_check_tiles():
    with pytest.raises(BadInput, match="vae_tiling: tiles of 256 pixels every 192 do not fit"):
        check_tiles(WanVAEConfig(is_residual=True, patch_size=3))


def test_latent_shape_published_sizes(model):
    assert model.family.default_size() == (81, 480, 832)
    wan21 = dataclasses.replace(
        model.family.vae.config, dim_mult=(1, 2, 4, 4), temperal_downsample=(False, True, True)
    )
    denoiser = dataclasses.replace(model.family.transformer.config, rope_max_seq_len=1024)
    family = dataclasses.replace(
        model.family,
        vae=model.family.vae.clone(config=wan21),
        transformer=model.family.transformer.clone(config=denoiser),
    )
    assert family.latent_shape(81, 480, 832) == ((21, 60, 104, 4), 21)
    with pytest.raises(BadInput, match="num_frames=80: .* nearest: 77 and 81"):
        family.latent_shape(80, 480, 832)


def test_from_pretrained_scheduler(model, tmp_path):
    model.save_pretrained(tmp_path)
    euler = VideoModel.from_pretrained(
        tmp_path, scheduler="FlowMatchEulerDiscreteScheduler"
    ).family.scheduler
    assert euler.shift == 3.0 and "flow_shift" not in euler.config
    whole = VideoModel.from_pretrained(
        tmp_path, scheduler=UNIPC | {"flow_shift": 5.0}
    ).family.scheduler
    assert whole.shift == 5.0
    random_model(0, EULER).save_pretrained(tmp_path)
    unipc = VideoModel.from_pretrained(
        tmp_path, scheduler="UniPCMultistepScheduler"
    ).family.scheduler
    assert unipc.shift == 3.0 and unipc.config["use_flow_sigmas"]
    for name in ("UniPCMultistepScheduler", None):
        shifted = VideoModel.from_pretrained(tmp_path, scheduler=name, flow_shift=12.0)
        assert shifted.family.scheduler.shift == 12.0
    with pytest.raises(
        BadInput, match="this model samples with FlowMatchEulerDiscreteScheduler, UniPC"
    ):
        VideoModel.from_pretrained(tmp_path, scheduler="CogVideoXDDIMScheduler")


@pytest.mark.slow
def test_generate_bfloat16(model, videos, tmp_path):
    model.save_pretrained(tmp_path)
    small = VideoModel.from_pretrained(tmp_path, dtype="bfloat16")
    assert small.params["transformer"]["proj_out"]["kernel"].dtype == jnp.bfloat16
    assert small.params["transformer"]["layers"]["scale_shift_table"].dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(small.params["vae"])} == {jnp.dtype("float32")}
    loaded = jax.tree.map(lambda x: (x.shape, x.dtype), small.params)
    assert loaded == jax.tree.map(lambda x: (x.shape, x.dtype), small.family.param_shapes())
    made = small.generate_batch(PROMPTS, seed=[4, 5, 6])
    assert made.errors == [None] * 3 and np.abs(made.videos.astype(int) - videos).mean() < 8


@pytest.mark.slow
def test_generate_on_mesh(model, videos):
    placed = VideoModel(model.family, model.params, model.settings, make_mesh())
    share_compiled(model, placed)
    np.testing.assert_allclose(placed.generate(PROMPTS, seed=[4, 5, 6]).astype(int), videos, atol=1)
    jax.tree.map(
        lambda leaf, axes: sharding_rules.partition_spec(axes, leaf.shape, make_mesh()),
        model.params,
        model.family.axes(),
        is_leaf=lambda x: hasattr(x, "shape"),
    )
    assert model.family.axes()["transformer"]["layers"]["ff_up"]["kernel"] == (
        "layers",
        "embed",
        "mlp",
    )


def test_from_pretrained_invalid_folder(model, tmp_path):
    model.save_pretrained(tmp_path)

    def refused(message):
        with pytest.raises(BadInput, match=message) as error:
            VideoModel.from_pretrained(tmp_path)
        assert "\n" not in str(error.value)

    def changed(path, **fields):
        before = read_json(tmp_path / path)
        write_json(tmp_path / path, before | fields)
        return lambda: write_json(tmp_path / path, before)

    (tmp_path / "vae").rename(tmp_path / "no vae")
    refused(
        "the folder 'vae' is missing; a Wan pipeline has tokenizer, text_encoder, transformer, vae,"
        " scheduler"
    )
    (tmp_path / "no vae").rename(tmp_path / "vae")
    for path, fields, message in (
        (
            "model_index.json",
            {"boundary_ratio": 0.875},
            "boundary_ratio is 0.875, but there is no transformer_2",
        ),
        ("model_index.json", {"expand_timesteps": 3}, "expand_timesteps"),
        ("transformer/config.json", {"in_channels": 36}, "image-to-video"),
        (
            "transformer/config.json",
            {"text_dim": 17},
            "text_dim is 17, the text encoder's d_model 16",
        ),
        ("transformer/config.json", {"ffn_dim": 33}, "has shape"),
        (
            "scheduler/scheduler_config.json",
            {"prediction_type": "epsilon"},
            "scheduler_config.json: prediction_type",
        ),
        ("pav_generation.json", {"stepz": 3}, "unknown field 'stepz'"),
    ):
        restore = changed(path, **fields)
        refused(message)
        restore()
    (tmp_path / "text_encoder" / "model.safetensors").unlink()
    refused("text_encoder")


def test_from_pretrained_without_settings(model, tmp_path):
    model.save_pretrained(tmp_path)
    (tmp_path / "pav_generation.json").write_text(json.dumps({"num_inference_steps": 7}))
    defaults = VideoModel.from_pretrained(tmp_path).settings
    assert (
        defaults.num_inference_steps,
        defaults.guidance_scale,
        defaults.fps,
        defaults.num_frames,
    ) == (
        7,
        5.0,
        16,
        None,
    )
    assert model.settings.num_inference_steps == SMALL_SETTINGS["num_inference_steps"]
