"""Compiles for a TPU that is not here: the compiler in libtpu needs the name of a topology, not its
chips.

Compiling tells for certain whether a program fits; how long it would run is an estimate by roofline
(Williams et al. 2009): a step takes as long as its arithmetic at the chips' peak, its memory
traffic or its communication, or their sum.
"""

import contextlib
import dataclasses
import importlib.util
import math
import os
import re
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from pav_jax.errors import BadInput
from pav_jax.parallel.chips import CHIPS, Chip
from pav_jax.preflight.hlo import Program
from pav_jax.preflight.traffic import Moved

# read by libtpu when it is loaded: ask no metadata server, share the library, and believe in a host
# (or it complains)
ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
}
# Chips of the only host of a slice of two axes, where it is not the 2 x 2 that libtpu takes for
# every host.
ONE_HOST = {(1, 1): (1, 1, 1), (2, 4): (2, 4, 1)}  # v6e-8, https://cloud.google.com/tpu/docs/v6e


@dataclasses.dataclass(frozen=True)
class Topology:
    """Chips that are described, not there.

    Attributes:
      shape: chips along each axis of one slice.
      devices: of all slices; arrays cannot be put on them, programs can be compiled for them.
    """

    name: str
    chip: Chip
    shape: tuple[int, ...]
    slices: int
    devices: Sequence[Any]

    @property
    def ici_rate(self) -> float:
        """Bytes per second that any chip can receive from its neighbours: one link along an axis,
        two along a ring."""
        rings = [size % self.chip.torus_multiple == 0 for size in self.shape]
        if len(self.shape) == 3 and not all(
            rings
        ):  # three axes close only where they are made of whole cubes
            rings = [False] * 3
        return self.chip.link_bytes_per_s * sum(
            1 + ring for size, ring in zip(self.shape, rings, strict=True) if size > 1
        )


def topology(name: str, slices: int = 1) -> Topology:
    """The topology `name`, as in "v5e:4x4", of each of `slices` slices.

    Raises:
      BadInput: libtpu is not installed, or has no such topology.
    """
    kind, _, shape = name.partition(":")
    if kind not in CHIPS or not re.fullmatch(r"\d+(x\d+){1,2}", shape):
        raise BadInput(
            f"--topology={name}: write a generation ({', '.join(CHIPS)}) and its chips, as in"
            " v5e:4x4, v5p:2x2x1 or v6e:2x4"
        )
    if importlib.util.find_spec("libtpu") is None:
        raise BadInput(
            "--topology: libtpu is not installed, and its compiler is needed; pip install"
            " 'jax[tpu]'"
        )
    for variable, value in ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    from jax.experimental import topologies

    sizes = tuple(int(size) for size in shape.split("x"))
    more = {"num_slices": slices} if slices > 1 else {}
    more |= {"chips_per_host_bounds": ONE_HOST[sizes]} if sizes in ONE_HOST else {}
    try:
        devices = topologies.get_topology_desc(platform="tpu", topology_name=name, **more).devices
    except jax.errors.JaxRuntimeError as error:
        raise BadInput(
            f"--topology={name}: libtpu has no such topology ({_first_line(error)})"
        ) from error
    if len(devices) != slices * math.prod(sizes):
        raise BadInput(
            f"--topology={name}: libtpu gives {len(devices)} chips for it, not {slices} x {shape}"
        )
    return Topology(name, CHIPS[kind], sizes, slices, devices)


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What compiling told.

    Attributes:
      reason: why the program does not compile, in a line; None where it does.
      needs: bytes of HBM per chip: `total`, and its parts; where it does not fit, the compiler's
        `total` alone.
      hlo: what runs on each chip; None where it does not compile.
    """

    seconds: float
    reason: str | None
    needs: dict[str, int]
    hlo: Program | None = None


def compile_program(lowered: jax.stages.Lowered) -> Compiled:
    """Compiles and measures; a program that is refused is a result, not an error."""
    start = time.perf_counter()
    try:
        with _no_cache():
            compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        return Compiled(time.perf_counter() - start, *_refused(str(error)))
    seconds, sizes = time.perf_counter() - start, compiled.memory_analysis()
    needs = {
        "arguments": sizes.argument_size_in_bytes,
        "temporary": sizes.temp_size_in_bytes,
        "results": (
            sizes.output_size_in_bytes - sizes.alias_size_in_bytes
        ),  # the others take arguments' places
        "program": sizes.generated_code_size_in_bytes,
    }
    needs["total"] = sum(needs.values())
    return Compiled(seconds, None, needs, Program(compiled.as_text()))


@contextlib.contextmanager
def least_effort() -> Iterator[None]:
    """Programs compile in seconds where it takes minutes, a video VAE's many; memory and traffic
    are not a run's."""
    values = {
        "jax_optimization_level": "O0",
        "jax_exec_time_optimization_effort": -1.0,
        "jax_memory_fitting_effort": -1.0,
    }
    before = {name: getattr(jax.config, name) for name in values}
    try:
        for name, value in values.items():
            jax.config.update(name, value)
        yield
    finally:  # whoever calls this from Python has its own programs to compile
        for name, value in before.items():
            jax.config.update(name, value)


@contextlib.contextmanager
def _no_cache() -> Iterator[None]:
    """Programs for chips that are not here cannot be loaded, so JAX's cache of programs must not
    hold them."""
    from jax.experimental.compilation_cache import compilation_cache

    before = jax.config.jax_enable_compilation_cache

    def enable(cache: bool) -> None:
        jax.config.update("jax_enable_compilation_cache", cache)
        compilation_cache.reset_cache()  # JAX looks at the setting once, and again after this

    enable(False)
    try:
        yield
    finally:
        enable(before)


def _refused(message: str) -> tuple[str, dict[str, int]]:
    """(the reason in one line, the bytes that were too many). libtpu says it in one of two ways."""
    units = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    amount = r"([\d.]+)([KMGT])"
    if used := (
        re.search(f"Used {amount} of {amount} hbm", message)
        or re.search(rf"HLO temporaries \({amount}\) exceeds available HBM \({amount}\)", message)
    ):
        return (
            f"needs {used[1]} {used[2]}iB of HBM per chip, {used[3]} {used[4]}iB can be used",
            {"total": int(float(used[1]) * units[used[2]])},
        )
    return message.strip().splitlines()[0][:300], {}


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200]


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Seconds that each resource would need on its own."""

    compute: float
    memory: float
    ici: float
    dcn: float

    @property
    def overlapped(self) -> float:
        """Everything at the same time: about the least a run can take; collectives' latencies are
        not in it."""
        return max(dataclasses.astuple(self))

    @property
    def serial(self) -> float:
        """One after the other, each at its peak."""
        return sum(dataclasses.astuple(self))


def roofline(where: Topology, operations: float, moved: Moved) -> Roofline:
    """Of one chip: its arithmetic operations, and what it moves."""
    chip = where.chip
    return Roofline(
        operations / chip.peak_flops,
        moved.memory / chip.hbm_bytes_per_s,
        moved.over("ici") / where.ici_rate if moved.over("ici") else 0.0,
        moved.over("dcn") / chip.dcn_bytes_per_s,
    )
