"""Topologies, what compiling for them tells, and the roofline. The compiler for TPUs is in libtpu,
a package of its own that pip install "pav-jax[tpu]" brings; without it the tests that need it are
skipped."""

import importlib.util
import math

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from pav_jax.errors import BadInput
from pav_jax.parallel.mesh import make_mesh
from pav_jax.preflight import compiler
from pav_jax.preflight.traffic import Moved, moved

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="libtpu is not installed: pip install 'jax[tpu]'",
)


def described(name, shape, slices=1):
    return compiler.Topology(name, compiler.CHIPS[name], shape, slices, ())


@pytest.mark.parametrize(
    "name, shape, links",
    [
        ("v5e", (4, 4), 2),  # no ring below 16: a corner has two neighbours
        ("v5e", (16, 16), 4),
        ("v5e", (8, 16), 3),
        ("v5e", (1, 1), 0),
        ("v6e", (2, 4), 2),
        ("v5p", (2, 2, 1), 2),
        ("v5p", (4, 4, 4), 6),
        ("v5p", (4, 4, 2), 3),  # not a whole cube
    ],
)
def test_rate_over_a_chips_links(name, shape, links):
    assert described(name, shape).ici_rate == links * compiler.CHIPS[name].link_bytes_per_s


def test_roofline_takes_the_slowest_or_all_after_each_other():
    where = described("v5e", (4, 4), slices=2)
    sent = Moved({("all-gather", "ici"): 1e9, ("all-reduce", "dcn"): 3.125e6}, {}, 819e6)
    line = compiler.roofline(where, 197e10, sent)
    assert (line.compute, line.memory, line.ici, line.dcn) == (0.01, 0.001, 0.01, 0.001)
    assert line.overlapped == 0.01 and line.serial == pytest.approx(0.022)
    assert compiler.roofline(described("v5e", (1, 1)), 197e12, Moved()).overlapped == 1


def test_a_program_that_does_not_fit_is_told_in_one_line():
    reason, needs = compiler._refused(
        "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in "
        "memory space hbm. Used 20.50G of 15.75G hbm. Exceeded hbm capacity by 4.75G.\n"
        "\nTotal hbm usage >= 20.75G:\n"
    )
    assert reason == "needs 20.50 GiB of HBM per chip, 15.75 GiB can be used"
    assert needs == {"total": int(20.5 * 2**30)}
    assert (
        compiler._refused(
            "RESOURCE_EXHAUSTED: HLO temporaries (133.50G) exceeds available HBM (15.75G)"
        )[0]
        == "needs 133.50 GiB of HBM per chip, 15.75 GiB can be used"
    )
    assert compiler._refused("INTERNAL: the compiler broke\nand said more") == (
        "INTERNAL: the compiler broke",
        {},
    )


@pytest.mark.parametrize("name", ["v5e", "v5e:4", "v9z:2x2", "v5e:4x4x4x4", ""])
def test_a_topology_that_is_not_one_is_refused(name):
    with pytest.raises(
        BadInput, match="write a generation .v5e, v5p, v6e. and its chips, as in v5e:4x4"
    ):
        compiler.topology(name)


def test_without_libtpu_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"libtpu is not installed.*pip install 'jax\[tpu\]'"):
        compiler.topology("v5e:2x2")


@needs_libtpu
@pytest.mark.parametrize(
    "name, slices, chips, hosts",
    [("v5e:4x4", 1, 16, 4), ("v5p:2x2x1", 1, 4, 1), ("v6e:2x4", 1, 8, 1), ("v5e:2x2", 2, 8, 2)],
)
def test_topologies_that_the_compiler_knows(name, slices, chips, hosts):
    where = compiler.topology(name, slices)
    assert len(where.devices) == chips and math.prod(where.shape) == chips // slices
    assert len({device.process_index for device in where.devices}) == hosts


@needs_libtpu
def test_a_topology_the_compiler_does_not_know_is_refused():
    with pytest.raises(BadInput, match="v5e:3x3: libtpu has no such topology"):
        compiler.topology("v5e:3x3")


@needs_libtpu
def test_the_data_axis_goes_over_slices():
    where = compiler.topology("v5e:2x2", slices=2)
    mesh = make_mesh(data=2, fsdp=4, devices=where.devices)
    assert [{d.slice_index for d in part.flat} for part in mesh.devices] == [{0}, {1}]
    with pytest.raises(
        BadInput, match="data is the axis that crosses slices, make it a multiple of the 2 slices"
    ):
        make_mesh(data=1, fsdp=8, devices=where.devices)


@needs_libtpu
def test_a_program_for_chips_that_are_not_here():
    where = compiler.topology("v5e:2x2")
    mesh = make_mesh(fsdp=4, devices=where.devices)
    rows, columns = (
        NamedSharding(mesh, PartitionSpec(*spec)) for spec in (("fsdp",), (None, "fsdp"))
    )
    x = jax.ShapeDtypeStruct((1024, 1024), jnp.bfloat16, sharding=rows)
    program = jax.jit(lambda x, w: x @ w, out_shardings=rows)
    done = compiler.compile_program(
        program.lower(x, jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=columns))
    )
    assert done.reason is None and done.seconds > 0
    # a quarter of each operand and of the result, 2 MiB each
    assert done.needs["arguments"] == 2**20 and done.needs["results"] == 2**19
    sent = moved(done.hlo)
    assert sent.over("ici") > 0 and sent.over("dcn") == 0 and sent.memory > 2**20

    huge = jax.ShapeDtypeStruct((2**18, 2**17), jnp.bfloat16, sharding=rows)  # 16 GiB on each chip
    refused = compiler.compile_program(jax.jit(lambda x: x + 1).lower(huge))
    assert (
        refused.hlo is None
        and "GiB of HBM per chip" in refused.reason
        and refused.needs["total"] > 16 * 2**30
    )
