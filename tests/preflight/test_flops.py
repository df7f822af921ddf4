"""The formula against a count by hand, against the traced programs, and against XLA."""

import jax
import jax.numpy as jnp
import pytest

from pav_jax import defaults
from pav_jax.models.llama import Llama, flops, hf
from pav_jax.parallel.mesh import make_mesh
from pav_jax.preflight import operations, rewriter_programs
from pav_jax.preflight.program import Assumed
from tests.preflight import tiny


@pytest.fixture
def lm(tmp_path):
    return rewriter_programs.model(defaults.get_config(), make_mesh(), tiny.write_sizes(tmp_path))


def test_a_count_by_hand(lm):
    # weights of a layer: q and o 32 x 32, k and v 32 x 16, gate, up and down 32 x 48
    kernels = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48
    f = flops.forward(lm.config, rows=5, tokens=7, keys=11, logits=2, adapter_size=100)
    assert f.layers == 2 * 5 * 7 * 3 * kernels
    assert f.attention == 2 * 2 * 5 * 7 * 11 * 3 * 4 * 8  # two products, 4 heads of 8
    assert f.adapters == 2 * 5 * 7 * 100
    assert f.unembed == 2 * 5 * 2 * 32 * 64
    # frozen products once more, for the gradient of their input; the others twice more
    assert flops.train_step(f, full=False) == 2 * (f.layers + f.unembed) + 3 * (
        f.attention + f.adapters
    )
    assert flops.train_step(f, full=True) == 3 * f.total


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_a_training_step_asks_for_what_the_formula_says(lm, stage, full):
    config = tiny.set_sizes(defaults.get_config())
    config[stage].full, config[stage].remat = full, False
    program = rewriter_programs.training(stage, config, lm, Assumed())
    counted = operations.count(program.trace().jaxpr)
    # where the head is trained, its logits are computed again, in chunks
    logits = full * 2 * 4 * {"sft": 1, "dpo": 2}[stage] * 32 * 32 * 64
    assert counted == program.parts[0].operations + logits
    config[stage].remat = True
    assert (
        operations.count(rewriter_programs.training(stage, config, lm, Assumed()).trace().jaxpr)
        > counted
    )


def test_accumulation_changes_no_count(lm):
    config = tiny.set_sizes(defaults.get_config())
    config.dpo.remat = False
    counts = []
    for config.dpo.grad_accumulation in (1, 4):
        counts.append(
            operations.count(rewriter_programs.training("dpo", config, lm, Assumed()).trace().jaxpr)
        )
    assert counts[0] == counts[1]


def test_reading_and_writing_ask_for_what_the_formula_says(lm):
    program = rewriter_programs.sample(defaults.get_config(), lm, Assumed(prompt_length=100))
    jaxpr = program.trace().jaxpr
    read, turn = operations.count(jaxpr, 0), operations.count(jaxpr, 1) - operations.count(jaxpr, 0)
    assert [part.operations for part in program.parts] == [read, turn]


def test_xla_counts_the_same_where_no_loop_hides_anything(tmp_path):
    sizes = hf.config_from_hf(
        tiny.SIZES | dict(hidden_size=128, intermediate_size=256, num_hidden_layers=1)
    )
    shapes, ids = hf.param_shapes(sizes), jax.ShapeDtypeStruct((2, 64), jnp.int32)
    model = Llama(sizes, remat=False)
    compiled = (
        jax.jit(lambda params, ids: model.apply({"params": params}, ids))
        .lower(shapes, ids)
        .compile()
    )
    ours = flops.forward(sizes, rows=2, tokens=64, keys=64, logits=64).total
    # XLA also counts norms, rotations and softmax
    assert ours <= compiled.cost_analysis()["flops"] <= 1.1 * ours
