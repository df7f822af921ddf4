"""Configurations for TPUs: meshes fit topologies, batches fit meshes, models have their published
sizes."""

import math

import jax
import pytest

from pav_jax.config import load
from pav_jax.errors import BadInput
from pav_jax.parallel.mesh import make_mesh
from pav_jax.preflight import rewriter_programs
from pav_jax.preflight.generator_programs import load_family, video_size

pytestmark = pytest.mark.slow  # programs of published sizes

REWRITERS = ("llama3_8b", "qwen3_8b", "qwen3_4b", "gemma3_4b")
SLICES = [
    "sft,v5e-16",
    "sft,v5p-8",
    "sft,v6e-8",
    "dpo,v5e-16",
    "dpo,v5p-8",
    "dpo,v6e-8",
    "dpo,v5e-256",
]


def chips_per_slice(config):
    return math.prod(int(n) for n in config.check.topology.partition(":")[2].split("x"))


def count_params(shapes):
    return {name: sum(leaf.size for leaf in jax.tree.leaves(tree)) for name, tree in shapes.items()}


@pytest.mark.parametrize("argument", SLICES)
@pytest.mark.parametrize("name", REWRITERS)
def test_rewriter_slice_fits_mesh_and_batch(name, argument):
    config = load(f"configs/{name}.py:{argument}")
    mesh = config.mesh
    chips = config.check.num_slices * chips_per_slice(config)
    assert mesh.data * mesh.fsdp * mesh.tensor * mesh.sequence == chips
    assert mesh.data % config.check.num_slices == 0
    options = config[config.check.programs[0]]
    rows = options.batch_size // options.gradient_accumulation_steps
    assert rows % (mesh.data * mesh.fsdp) == 0


@pytest.mark.parametrize("argument", ["grpo", "dpo,v9z-8", "sft,v5e-256"])
def test_llama3_8b_unknown_argument(argument):
    with pytest.raises(BadInput) as error:
        load(f"configs/llama3_8b.py:{argument}")
    assert error.value.source == "configs/llama3_8b.py"


@pytest.mark.parametrize("path", ["Qwen/Qwen3-8B", "Qwen/Qwen3-4B", "google/gemma-3-4b-it"])
@pytest.mark.parametrize("name", ["wan21_14b", "opensora_12", "cogvideox_5b"])
def test_video_recipe_with_another_rewriter(name, path):
    config = load(f"configs/{name}.py", [f"--config.rewriter.path={path}"])
    lm = rewriter_programs.outline(config, make_mesh())
    assert config.rewriter.template == "auto"
    assert lm.config.model_type == ("gemma3_text" if "gemma" in path else "qwen3")


@pytest.mark.parametrize("name", ["cogvideox_2b", "cogvideox_5b"])
def test_cogvideox_fits_one_host(name):
    config = load(f"configs/{name}.py")
    assert video_size(config) == (33, 480, 720)
    family, _, settings = load_family(config)
    assert family.latent_shape(33, 480, 720) == ((9, 60, 90, 16), 9)
    mesh = config.generator.mesh
    assert settings.batch_size % (mesh.data * mesh.fsdp) == 0
    assert mesh.fsdp == chips_per_slice(config) == config.mesh.fsdp


@pytest.mark.parametrize(
    "name",
    [
        "cogvideox_2b",
        "cogvideox_5b",
        "opensora_12",
        "wan21_14b",
        "wan21_1_3b",
        "wan22_ti2v_5b",
        "wan22_a14b",
    ],
)
def test_training_batches_fit_mesh(name):
    config = load(f"configs/{name}.py")
    shards = config.mesh.data * config.mesh.fsdp
    for options in (config.sft, config.dpo):
        assert options.batch_size // options.gradient_accumulation_steps % shards == 0


def test_cogvideox_1_5_default_size():
    config = load("configs/cogvideox_5b.py")
    config.generator.path = "THUDM/CogVideoX1.5-5B"
    config.generator.num_frames = None
    family, _, _ = load_family(config)
    assert video_size(config) == (81, 768, 1360)
    # two latent frames to a patch
    assert family.latent_shape(81, 768, 1360) == ((22, 96, 170, 16), 21)
    with pytest.raises(BadInput, match="num_frames=79"):
        family.latent_shape(79, 768, 1360)


@pytest.mark.parametrize(
    "name, chips, denoiser", [("1_3b", 8, 1_418_996_800), ("14b", 4, 14_288_491_584)]
)
def test_wan21_published_sizes(name, chips, denoiser):
    config = load(f"configs/wan21_{name}.py")
    assert chips_per_slice(config) == chips
    assert config.mesh.fsdp == config.generator.batch_size == chips
    assert config.sft.batch_size % chips == 0
    family, shapes, settings = load_family(config)
    assert count_params(shapes) == {
        "transformer": denoiser,
        "text_encoder": 5_680_910_336,
        "vae": 126_892_531,
    }
    assert video_size(config) == (81, 480, 832)
    assert settings.guidance_scale == 5.0 and settings.num_inference_steps == 50
    assert family.scheduler.shift == 3.0 and family.sequence_length(None) == 512


@pytest.mark.parametrize("tpu, tiles", [("v6e-8", False), ("v5e-8", True)])
def test_wan22_ti2v_published_sizes(tpu, tiles):
    config = load(f"configs/wan22_ti2v_5b.py:{tpu}")
    assert chips_per_slice(config) == config.mesh.fsdp == config.generator.batch_size == 8
    family, shapes, settings = load_family(config)
    assert count_params(shapes) == {
        "transformer": 4_999_787_712,
        "text_encoder": 5_680_910_336,
        "vae": 704_688_668,
    }
    assert video_size(config) == family.default_size() == (121, 704, 1280)
    assert family.latent_shape(121, 704, 1280)[0] == (31, 44, 80, 48)
    assert (settings.guidance_scale, settings.num_inference_steps, settings.fps) == (5.0, 50, 24)
    assert settings.vae_tiling == tiles and family.scheduler.shift == 5.0


@pytest.mark.parametrize("tpu, chips", [("v6e-8", 8), ("v5p-8", 4)])
def test_wan22_a14b_published_sizes(tpu, chips):
    config = load(f"configs/wan22_a14b.py:{tpu}")
    assert chips_per_slice(config) == config.mesh.fsdp == config.generator.batch_size == chips
    family, shapes, settings = load_family(config)
    assert count_params(shapes) == {
        "transformer": 14_288_491_584,
        "transformer_2": 14_288_491_584,
        "text_encoder": 5_680_910_336,
        "vae": 126_892_531,
    }
    assert video_size(config) == (81, 480, 832)
    assert (settings.guidance_scale, settings.guidance_scale_2, settings.fps) == (4.0, 3.0, 16)
    assert family.scheduler.shift == 12.0
    assert [part.stop for part in family.denoiser_steps(settings.num_inference_steps)] == [26, 40]


@pytest.mark.parametrize("name", ["wan22_ti2v_5b", "wan22_a14b"])
def test_wan22_unknown_slice(name):
    with pytest.raises(BadInput) as error:
        load(f"configs/{name}.py:v9z-8")
    assert error.value.source == f"configs/{name}.py"


def test_opensora_published_sizes():
    config = load("configs/opensora_12.py")
    chips = chips_per_slice(config)
    assert config.mesh.fsdp == config.generator.batch_size == chips
    assert config.sft.batch_size % chips == 0
    family, shapes, settings = load_family(config)
    assert count_params(shapes) == {
        "transformer": 1_208_872_772,
        "text_encoder": 4_762_310_656,
        "vae": 393_341_015,
    }
    assert video_size(config) == family.default_size() == (51, 720, 1280)
    assert (
        settings.guidance_scale == 7.0
        and settings.num_inference_steps == 30
        and family.sequence_length(None) == 300
    )
    assert family.latent_shape(51, 720, 1280)[0] == (15, 90, 160, 4)
