"""Programs are examined several at a time; memory includes what earlier programs left there."""

import threading

import jax
import jax.numpy as jnp
import pytest

from pav_jax.parallel.chips import CHIPS
from pav_jax.preflight import compiler, estimate
from pav_jax.preflight.program import CostedPhase, Program
from pav_jax.preflight.topology import Topology

TOPOLOGY = Topology("v5e:1x1", CHIPS["v5e"], (1, 1), 1, jax.devices()[:1])


def program(name, earlier=()):
    def trace():
        raise AssertionError("the test compiles nothing")

    return Program("a batch", (CostedPhase(name, None, 1),), trace, 1, earlier)


def test_examine_programs_at_the_same_time_in_order(monkeypatch):
    together = threading.Barrier(3, timeout=120)

    def examine(program, topology):
        together.wait()
        return program.name

    monkeypatch.setattr(estimate, "examine_program", examine)
    programs = [program(name) for name in "abc"]
    assert list(estimate.examine_programs(programs, TOPOLOGY, 3)) == ["a", "b", "c"]


def test_compilation_cache_is_off_while_any_thread_compiles():
    before = jax.config.jax_enable_compilation_cache
    with compiler._compilation_cache_disabled:
        with compiler._compilation_cache_disabled:
            assert not jax.config.jax_enable_compilation_cache
        assert not jax.config.jax_enable_compilation_cache
    assert jax.config.jax_enable_compilation_cache == before


@pytest.mark.parametrize("gib, fits", [(1, True), (3, False)])
def test_earlier_results_count_as_memory(gib, fits):
    earlier = jax.ShapeDtypeStruct((gib, 2**29), jnp.bfloat16)
    compiled = compiler.CompileResult(1.0, None, {"temporary": 14 * 2**30, "total": 14 * 2**30})
    counted = estimate._add_earlier_results(compiled, program("tiles", [earlier]), TOPOLOGY)
    assert counted.memory["earlier results"] == gib * 2**30
    assert counted.memory["total"] == (14 + gib) * 2**30
    assert (counted.error is None) == fits
    if not fits:
        assert counted.error.startswith("needs 17.00 GiB of HBM per chip")
