"""The rewriter's programs: sizes, runs, and FLOPs by formula against a count by hand, against the
traced programs and against XLA."""

import json

import jax
import jax.numpy as jnp
import pytest

from pav_jax.config import load
from pav_jax.models.decoder import Decoder, flops, hf
from pav_jax.parallel.mesh import make_mesh
from pav_jax.preflight import rewriter_programs
from pav_jax.preflight.flops import count_flops
from tests.cpu_devices import run_on_cpu_devices
from tests.tiny import rewriter_sizes


@pytest.fixture
def config():
    return rewriter_sizes.set_batch(load())


@pytest.fixture(params=["llama"])
def lm(request, config, tmp_path):
    changes = rewriter_sizes.FAMILIES[request.param]
    config_json = rewriter_sizes.write_config_json(tmp_path, **changes)
    return rewriter_programs.outline(config, make_mesh(), config_json)


def counted_flops(stage, config, lm):
    return count_flops(rewriter_programs.training(stage, config, lm).trace().jaxpr)


@pytest.mark.parametrize(
    "name, size",
    [
        ("llama3_8b", 8_030_261_248),
        ("qwen3_8b", 8_190_735_360),
        ("qwen3_4b", 4_022_468_096),
        ("gemma3_4b", 3_880_263_168),
    ],
)
def test_outline_published_sizes(name, size):
    lm = rewriter_programs.outline(load(f"configs/{name}.py"), make_mesh())
    assert sum(leaf.size for leaf in jax.tree.leaves(lm.params)) == size


def test_outline_config_json(lm):
    assert lm.config.hidden_size == 32


def test_training_num_runs(lm, config):
    config.check.num_examples = 100
    rewriter_sizes.set_batch(config, batch_size=16)
    sft = rewriter_programs.training("sft", config, lm)
    dpo = rewriter_programs.training("dpo", config, lm)
    assert sft.phases[0].num_runs == 12 * 100 / 16  # 12 epochs
    assert dpo.phases[0].num_runs == 2 * 19  # 2 rounds of 3 epochs, 300 / 16 steps


def test_sampling_program_num_runs(lm, config):
    config.check.num_examples = 100
    prefill, decode = rewriter_programs.sampling_program(config, lm).phases
    # 2 rounds of 5 samples for 100 prompts, 16 rows in a batch; 250 tokens
    assert prefill.num_runs == 2 * 32
    assert decode.num_runs == 2 * 32 * 250


def test_forward_flops_by_hand(lm):
    # weights of a layer: q and o 32 x 32, k and v 32 x 16, gate, up and down 32 x 48
    kernels = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48
    forward = flops.forward(lm.config, rows=5, tokens=7, keys=11, logits=2, adapter_size=100)
    assert forward.layers == 2 * 5 * 7 * 3 * kernels
    assert forward.attention == 2 * 2 * 5 * 7 * 11 * 3 * 4 * 8  # two products, 4 heads of 8
    assert forward.adapters == 2 * 5 * 7 * 100
    assert forward.unembed == 2 * 5 * 2 * 32 * 64
    # frozen products once more, for the gradient of their input; the others twice more
    frozen = forward.layers + forward.unembed
    trained = forward.attention + forward.adapters
    assert flops.training_step(forward, full=False) == 2 * frozen + 3 * trained
    assert flops.training_step(forward, full=True) == 3 * forward.total


families = pytest.mark.parametrize("lm", rewriter_sizes.FAMILIES, indirect=True)


@families
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_training_flops_match_formula(lm, config, stage, full):
    config[stage].full_finetuning = full
    config[stage].remat = False
    config[stage].lora.target_modules = ("q_proj", "v_proj", "o_proj")  # experts have no adapters
    counted = counted_flops(stage, config, lm)
    formula = rewriter_programs.training(stage, config, lm).phases[0].flops
    # where the head is trained, its logits are computed again, in chunks
    rows = 4 * {"sft": 1, "dpo": 2}[stage]
    recomputed_logits = 2 * rows * 32 * 32 * 64 if full else 0
    assert counted == formula + recomputed_logits
    config[stage].remat = True
    assert counted_flops(stage, config, lm) > counted


def test_training_flops_with_accumulation(lm, config):
    config.dpo.remat = False
    counts = []
    for steps in (1, 4):
        config.dpo.gradient_accumulation_steps = steps
        counts.append(counted_flops("dpo", config, lm))
    assert counts[0] == counts[1]


@families
def test_sampling_program_flops_match_formula(lm, config):
    config.check.prompt_length = 100
    program = rewriter_programs.sampling_program(config, lm)
    jaxpr = program.trace().jaxpr
    prefill = count_flops(jaxpr, 0)
    decode = count_flops(jaxpr, 1) - prefill
    assert [phase.flops for phase in program.phases] == [prefill, decode]


ON_MESHES = """
import json, pathlib, sys
from pav_jax.config import load
from pav_jax.parallel.mesh import make_mesh
from pav_jax.preflight import rewriter_programs
from pav_jax.preflight.flops import count_flops
from tests.tiny import rewriter_sizes
config = rewriter_sizes.set_batch(load(), batch_size=8)
config.sft.remat = False
changes = rewriter_sizes.FAMILIES["qwen3_moe"] | dict(num_hidden_layers=1)
path = rewriter_sizes.write_config_json(pathlib.Path(sys.argv[1]), **changes)
for sizes in ({}, dict(expert=2), dict(data=2, expert=2), dict(fsdp=2, expert=2)):
    lm = rewriter_programs.outline(config, make_mesh(**sizes), path)
    program = rewriter_programs.training("sft", config, lm)
    traced = program.trace()
    by_xla = traced.lower().compile().cost_analysis()["flops"] * lm.mesh.size
    print(json.dumps([program.phases[0].flops, count_flops(traced.jaxpr), by_xla]))
"""


@pytest.mark.slow
def test_training_flops_on_expert_axis(tmp_path):
    """The axis shares work: no product is computed twice, and experts that a token does not use
    count nowhere."""
    printed = run_on_cpu_devices(4, ON_MESHES, tmp_path)
    (formula, _, alone), *on_meshes = rows = [json.loads(line) for line in printed.splitlines()]
    assert all(row[:2] == [formula, formula] for row in rows)
    for *_, by_xla in on_meshes:
        assert alone <= by_xla <= 1.05 * alone


def test_forward_flops_match_xla():
    sizes = rewriter_sizes.SIZES | dict(hidden_size=128, intermediate_size=256, num_hidden_layers=1)
    config = hf.config_from_hf(sizes)
    ids = jax.ShapeDtypeStruct((2, 64), jnp.int32)
    model = Decoder(config, remat=False)
    apply = jax.jit(lambda params, ids: model.apply({"params": params}, ids))
    compiled = apply.lower(hf.param_shapes(config), ids).compile()
    total = flops.forward(config, rows=2, tokens=64, keys=64, logits=64).total
    # XLA also counts norms, rotary embeddings and softmax
    assert total <= compiled.cost_analysis()["flops"] <= 1.1 * total
