"""`pav check` from its command line to what it prints."""

import importlib.util
import json
import math

import jax
import jax.numpy as jnp
import pytest

from pav_jax.commands import check
from pav_jax.config import load
from pav_jax.errors import BadInput
from pav_jax.main import main
from pav_jax.parallel.chips import CHIPS
from pav_jax.parallel.mesh import make_mesh
from pav_jax.preflight import compiler, generator_programs, reward_programs, rewriter_programs
from pav_jax.preflight.program import Assumed, config_folder
from pav_jax.rewards.videoscore import TOKENS
from tests.preflight import tiny

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="libtpu is not installed: pip install 'jax[tpu]'",
)
CONFIGS = [
    f"llama3_8b_{name}"
    for name in (
        "sft_v5e16",
        "dpo_v5e16",
        "sft_v5p8",
        "dpo_v5p8",
        "sft_v6e8",
        "dpo_v6e8",
        "dpo_v5e256",
    )
]


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--topology=v5e:four"], "--topology=v5e:four: write a generation"),
        ([], "--topology is missing"),
        (
            ["--topology=v5e:2x2", "--programs=sft,sgt"],
            "there is no 'sgt'; choose from sft, dpo, sample",
        ),
        (["--topology=v5e:2x2", "--examples=0"], "--examples=0: must be at least 1"),
        (["--topology=v5e:2x2", "--config=nowhere.py"], "--config=nowhere.py: no such file"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments, said, capsys):
    assert main(["check", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


@pytest.mark.parametrize("name", CONFIGS)
def test_configurations_name_a_mesh_that_fits_their_topology(name):
    config = load(f"configs/{name}.py")
    sizes = [int(n) for n in config.check.topology.partition(":")[2].split("x")]
    chips, mesh = config.check.slices, dict(config.mesh)
    for size in sizes:
        chips *= size
    product = mesh["data"] * mesh["fsdp"] * mesh["tensor"] * mesh["sequence"]
    assert product == chips and mesh["data"] % config.check.slices == 0
    fields = config[config.check.programs[0]]
    assert fields.batch_size // fields.grad_accumulation % (mesh["data"] * mesh["fsdp"]) == 0


@pytest.mark.parametrize(
    "name, sizes, latent",
    [
        ("cogvideox_2b", (33, 480, 720), (9, 60, 90, 16)),
        ("cogvideox_5b", (33, 480, 720), (9, 60, 90, 16)),
    ],
)
def test_video_configurations_fit_one_host_and_their_published_sizes(name, sizes, latent):
    config = load(f"configs/{name}.py")
    assert generator_programs.video_size(config) == sizes
    family, _, used = generator_programs._family(config)
    assert family.latent_shape(*sizes) == (latent, 9)
    first, second = map(int, config.check.topology.partition(":")[2].split("x")[:2])
    assert used.batch % (config.generator.mesh.data * config.generator.mesh.fsdp) == 0
    assert config.generator.mesh.fsdp == first * second == config.mesh.fsdp


@pytest.mark.parametrize(
    "name", ["cogvideox_2b", "cogvideox_5b", "opensora_12", "wan21_14b", "wan21_1_3b"]
)
def test_every_stage_of_a_whole_recipe_has_rows_for_all_chips(name):
    config = load(f"configs/{name}.py")
    for fields in (config.sft, config.dpo):
        assert (
            fields.batch_size // fields.grad_accumulation % (config.mesh.data * config.mesh.fsdp)
            == 0
        )


def test_version_1_5_makes_its_published_size():
    config = load("configs/cogvideox_5b.py")
    config.generator.path, config.generator.num_frames = "THUDM/CogVideoX1.5-5B", None
    family, _, _ = generator_programs._family(config)
    assert generator_programs.video_size(config) == (81, 768, 1360)
    assert family.latent_shape(81, 768, 1360) == (
        (22, 96, 170, 16),
        21,
    )  # two latent frames to a patch
    with pytest.raises(BadInput, match="num_frames=79: .* nearest: "):
        family.latent_shape(79, 768, 1360)


@pytest.mark.parametrize(
    "name, chips, denoiser", [("1_3b", 8, 1_418_996_800), ("14b", 4, 14_288_491_584)]
)
def test_the_wan_recipes_give_each_chip_a_video_and_know_the_published_sizes(name, chips, denoiser):
    config = load(f"configs/wan21_{name}.py")
    assert math.prod(int(n) for n in config.check.topology.partition(":")[2].split("x")) == chips
    assert (
        config.mesh.fsdp == config.generator.batch == chips and config.sft.batch_size % chips == 0
    )
    family, shapes, used = generator_programs._family(config)
    sizes = {
        part: sum(leaf.size for leaf in jax.tree.leaves(tree)) for part, tree in shapes.items()
    }
    assert sizes == {"transformer": denoiser, "text_encoder": 5_680_910_336, "vae": 126_892_531}
    assert (
        generator_programs.video_size(config) == (81, 480, 832)
        and used.guidance_scale == 5.0
        and used.steps == 50
    )
    assert family.scheduler.shift == 3.0 and family.text_tokens == 512


def test_the_open_sora_recipe_gives_each_chip_a_video_and_knows_the_published_sizes():
    config = load("configs/opensora_12.py")
    chips = math.prod(int(n) for n in config.check.topology.partition(":")[2].split("x"))
    assert (
        config.mesh.fsdp == config.generator.batch == chips and config.sft.batch_size % chips == 0
    )
    family, shapes, used = generator_programs._family(config)
    sizes = {
        part: sum(leaf.size for leaf in jax.tree.leaves(tree)) for part, tree in shapes.items()
    }
    assert sizes == {
        "transformer": 1_208_872_772,
        "text_encoder": 4_762_310_656,
        "vae": 393_341_015,
    }
    assert generator_programs.video_size(config) == family.default_size() == (51, 720, 1280)
    assert used.guidance_scale == 7.0 and used.steps == 30 and family.text_tokens == 300
    assert family.latent_shape(51, 720, 1280)[0] == (15, 90, 160, 4)


def test_published_sizes_stand_in_for_a_model_that_is_not_here(tmp_path):
    config = load("configs/llama3_8b.py")
    lm = rewriter_programs.model(config, make_mesh())
    assert sum(leaf.size for leaf in rewriter_programs.jax.tree.leaves(lm.params)) == 8_030_261_248
    assert (
        rewriter_programs.model(config, make_mesh(), tiny.write_sizes(tmp_path)).config.hidden_size
        == 32
    )
    with pytest.raises(
        BadInput,
        match="x/unheard-of: not on this disk, and its sizes are not among .*Meta-Llama-3-8B",
    ):
        config_folder("x/unheard-of", "config.rewriter.path")


def test_the_runs_of_a_whole_configuration_are_counted(tmp_path):
    config = tiny.set_sizes(load(), batch=16)
    lm = rewriter_programs.model(config, make_mesh(), tiny.write_sizes(tmp_path))
    assumed = Assumed(examples=100)
    assert (
        rewriter_programs.training("sft", config, lm, assumed).parts[0].runs == 12 * 100 / 16
    )  # epochs
    assert (
        rewriter_programs.training("dpo", config, lm, assumed).parts[0].runs == 2 * 19
    )  # rounds of 3 x 100 / 16 steps
    prefill, decode = rewriter_programs.sample(config, lm, assumed).parts
    assert (
        prefill.runs == 2 * 32 and decode.runs == 2 * 32 * 250
    )  # 5 samples of 100 prompts, 16 rows at once
    assert generator_programs.videos(config, assumed) == 100 * (1 + 8 * 3) + 2 * 100 * 5


def test_the_generator_and_the_rewards_are_traced_from_their_sizes():
    config = load("configs/mini.py")
    config.generator.steps = 3
    host = list(make_mesh().devices.flat)
    programs = generator_programs.generator(config, host, Assumed())
    assert [program.name for program in programs] == ["text encoder", "denoiser", "VAE"]
    assert all(program.trace().jaxpr.eqns for program in programs)
    assert programs[1].batch == "16 videos of 9 x 64 x 64, 3 steps"
    with config.unlocked():
        config.rewards.entries.motion = {}
    names = {
        reward.name: reward.batch for reward in reward_programs.rewards(config, host, Assumed())
    }
    assert names == {
        "CLIP images": "32 images of 128 x 128",
        "CLIP texts": "16 texts",
        "motion": "a video of 9 x 64 x 64",
        "MPS": "8 videos, 4 frames of 64 x 64",
        "VideoScore, frames": "64 frames of 48 x 48",
        "VideoScore, decoder": f"16 videos of 5 frames, as {3 * TOKENS} tokens",
    }


def test_the_full_suite_is_traced_at_its_published_sizes():
    found = reward_programs.rewards(
        load("configs/rewards_full.py"), list(make_mesh().devices.flat), Assumed(examples=100)
    )
    assert [(one.name, one.batch) for one in found] == [
        ("CLIP images", "32 images of 480 x 720"),
        ("CLIP texts", "16 texts"),
        ("MPS", "8 videos, 4 frames of 480 x 720"),
        ("VideoScore, frames", "4 frames of 480 x 720"),
        ("VideoScore, decoder", "1 videos of 16 frames, as 1536 tokens"),
    ]
    # a video has 16 frames, 4 in a program, and is read by the decoder alone
    assert found[3].parts[0].runs == 4 * found[4].parts[0].runs == 4 * 100 * (1 + 8 * 3 + 2 * 5)
    weights = [
        sum(
            leaf.size
            for leaf in one.trace().jaxpr.in_avals
            if jnp.issubdtype(leaf.dtype, jnp.floating)
        )
        for one in found[2::2]
    ]  # few other numbers go in
    assert weights == pytest.approx([1.1046e9, 8.2717e9], rel=1e-3)


@pytest.mark.parametrize("quick", [True, False])
def test_quick_asks_for_the_least_effort_and_only_while_it_compiles(quick, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(
        check, "_examine", lambda *_: seen.append(jax.config.jax_optimization_level) or []
    )
    monkeypatch.setattr(check, "_programs", lambda *_: [])
    here = compiler.Topology("v5e:1x1", CHIPS["v5e"], (1, 1), 1, jax.devices()[:1])
    monkeypatch.setattr(compiler, "topology", lambda name, slices: here)
    before = jax.config.jax_optimization_level
    assert main(["check", "--topology=v5e:1x1", "--json", *["--quick"] * quick]) == 0
    assert seen == ["O0" if quick else before] and jax.config.jax_optimization_level == before
    assert json.loads(capsys.readouterr().out)["quick"] is quick


@needs_libtpu
def test_a_tiny_rewriter_end_to_end(tmp_path, capsys):
    sizes = tiny.write_sizes(tmp_path, num_hidden_layers=2)
    arguments = [
        "check",
        "--topology=v5e:2x2",
        "--programs=sft",
        f"--rewriter-config={sizes}",
        "--examples=10",
        "--length=32",
        "--config.sft.batch_size=4",
        "--usd-per-chip-hour=1.2",
    ]
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["chips"] == 4 and found["mesh"] == {
        "data": 1,
        "fsdp": 4,
        "tensor": 1,
        "sequence": 1,
    }
    (program,) = found["programs"]
    assert (
        program["compiles"]
        and program["bytes_per_chip"]["total"] > 0
        and program["compile_seconds"] > 0
    )
    (part,) = program["parts"]
    assert (
        part["runs"] == 12 * 10 / 4 and part["operations_counted"] > part["operations_formula"] > 0
    )
    kinds = {one["kind"]: one["count"] for one in part["collectives_per_chip"]}
    assert kinds["all-gather"] >= 2 * 7  # every layer's weights, in the forward pass at least
    low, high = part["estimated"]["usd"]
    assert 0 < low <= high and 0 < part["estimated"]["mfu_at_most"] < 1
