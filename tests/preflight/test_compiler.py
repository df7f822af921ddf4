"""Programs compiled for chips that are not attached."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from pav_jax.parallel.mesh import make_mesh
from pav_jax.preflight.compiler import compile_program, parse_compile_error
from pav_jax.preflight.topology import describe_topology
from pav_jax.preflight.traffic import measure_traffic
from tests.preflight.libtpu import needs_libtpu


@pytest.mark.parametrize(
    "message, reason, total",
    [
        (
            "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space"
            " hbm. Used 20.50G of 15.75G hbm. Exceeded hbm capacity by 4.75G.\n\nTotal hbm usage >="
            " 20.75G:\n",
            "needs 20.50 GiB of HBM per chip, 15.75 GiB are available",
            20.5 * 2**30,
        ),
        (
            "RESOURCE_EXHAUSTED: HLO temporaries (133.50G) exceeds available HBM (15.75G)",
            "needs 133.50 GiB of HBM per chip, 15.75 GiB are available",
            133.5 * 2**30,
        ),
    ],
)
def test_parse_compile_error_out_of_memory(message, reason, total):
    assert parse_compile_error(message) == (reason, {"total": int(total)})


def test_parse_compile_error_other():
    message = "INTERNAL: the compiler broke\nand said more"
    assert parse_compile_error(message) == ("INTERNAL: the compiler broke", {})


class UnreadableProgram:
    """A compiled program of a libtpu that is newer than jaxlib, and its lowered form."""

    def compile(self):
        return self

    def memory_analysis(self):
        return None

    def as_text(self):
        raise jax.errors.JaxRuntimeError("INTERNAL: RET_CHECK failure")


def test_compile_program_of_another_libtpu_is_an_error():
    result = compile_program(UnreadableProgram())
    assert result.hlo is None
    assert "RET_CHECK" in result.error and "install 'libtpu==" in result.error


@pytest.fixture
def mesh():
    return make_mesh(fsdp=4, devices=describe_topology("v5e:2x2").devices)


@needs_libtpu
def test_compile_program(mesh):
    rows = NamedSharding(mesh, PartitionSpec("fsdp"))
    columns = NamedSharding(mesh, PartitionSpec(None, "fsdp"))
    x = jax.ShapeDtypeStruct((1024, 1024), jnp.bfloat16, sharding=rows)
    w = jax.ShapeDtypeStruct((1024, 1024), jnp.bfloat16, sharding=columns)
    result = compile_program(jax.jit(lambda x, w: x @ w, out_shardings=rows).lower(x, w))
    assert result.error is None and result.seconds > 0
    # a quarter of each operand and of the result, 2 MiB each
    assert result.memory["arguments"] == 2**20
    assert result.memory["results"] == 2**19
    traffic = measure_traffic(result.hlo)
    assert traffic.bytes_over("ici") > 0
    assert traffic.bytes_over("dcn") == 0
    assert traffic.hbm_bytes > 2**20


@needs_libtpu
def test_compile_program_out_of_memory(mesh):
    rows = NamedSharding(mesh, PartitionSpec("fsdp"))
    huge = jax.ShapeDtypeStruct((2**18, 2**17), jnp.bfloat16, sharding=rows)  # 16 GiB on each chip
    result = compile_program(jax.jit(lambda x: x + 1).lower(huge))
    assert result.hlo is None
    assert "GiB of HBM per chip" in result.error
    assert result.memory["total"] > 16 * 2**30
