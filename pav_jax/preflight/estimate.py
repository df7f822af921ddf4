"""Compiles programs and estimates the cost of their phases."""

import concurrent.futures
import dataclasses
import math
from collections.abc import Iterator, Sequence

import jax

from pav_jax.errors import BadInput
from pav_jax.preflight.compiler import CompileResult, compile_program
from pav_jax.preflight.flops import count_flops
from pav_jax.preflight.program import CostedPhase, Program
from pav_jax.preflight.roofline import Roofline, roofline
from pav_jax.preflight.topology import Topology
from pav_jax.preflight.traffic import CollectiveTraffic, measure_traffic


@dataclasses.dataclass(frozen=True)
class PhaseEstimate:
    """The cost of one run of a phase.

    Attributes:
      phase: what is costed.
      num_chips: chips that it runs on.
      peak_flops: of one chip, per second.
      counted_flops: counted in the traced program over all chips, recomputation included.
      traffic: of one chip.
      seconds: roofline of one chip.
    """

    phase: CostedPhase
    num_chips: int
    peak_flops: float
    counted_flops: float
    traffic: CollectiveTraffic
    seconds: Roofline

    @property
    def mfu_upper_bound(self) -> float | None:
        """Model FLOPs utilization in the shortest possible time; None without a formula."""
        if self.phase.flops is None or not self.seconds.overlapped:
            return None
        return self.phase.flops / (self.num_chips * self.peak_flops * self.seconds.overlapped)

    @property
    def chip_hours(self) -> tuple[float, float]:
        """Chip-hours of the whole run if everything overlaps, and if nothing does."""
        hours = self.phase.num_runs * self.num_chips / 3600
        return hours * self.seconds.overlapped, hours * self.seconds.serial


@dataclasses.dataclass(frozen=True)
class ProgramReport:
    """What is known of one program after compilation."""

    program: Program
    compiled: CompileResult
    estimates: tuple[PhaseEstimate, ...] = ()


def examine_programs(
    programs: Sequence[Program], topology: Topology, num_threads: int
) -> Iterator[ProgramReport]:
    """Examines programs, several at a time, and yields the reports in the programs' order."""
    with concurrent.futures.ThreadPoolExecutor(num_threads) as threads:
        reports = [threads.submit(examine_program, program, topology) for program in programs]
        try:
            for report in reports:
                yield report.result()
        finally:
            threads.shutdown(wait=False, cancel_futures=True)


def examine_program(program: Program, topology: Topology) -> ProgramReport:
    """Traces and compiles a program, and estimates the cost of its phases."""
    try:
        traced = program.trace()
    except BadInput as error:
        return ProgramReport(program, CompileResult(0.0, str(error), {}))
    compiled = _add_earlier_results(compile_program(traced.lower()), program, topology)
    if compiled.hlo is None:
        return ProgramReport(program, compiled)
    # FLOPs and traffic are linear in the trip count of the loop whose length is unknown: the
    # program with 0 and with 1 iterations gives the part outside of the loop and one iteration.
    trip_counts = (0, 1) if len(program.phases) == 2 else (1,)
    flops = [count_flops(traced.jaxpr, trip_count) for trip_count in trip_counts]
    traffic = [measure_traffic(compiled.hlo, trip_count) for trip_count in trip_counts]
    if len(program.phases) == 2:
        flops[1] -= flops[0]
        traffic[1] -= traffic[0]
    num_chips = program.num_chips or len(topology.devices)
    estimates = tuple(
        PhaseEstimate(
            phase=phase,
            num_chips=num_chips,
            peak_flops=topology.chip.peak_flops,
            counted_flops=phase_flops,
            traffic=phase_traffic,
            seconds=roofline(topology, phase_flops / num_chips, phase_traffic),
        )
        for phase, phase_flops, phase_traffic in zip(program.phases, flops, traffic, strict=True)
    )
    return ProgramReport(program, compiled, estimates)


def _add_earlier_results(
    compiled: CompileResult, program: Program, topology: Topology
) -> CompileResult:
    """Adds what earlier programs left in memory, which the compiler does not know of."""
    earlier = sum(_bytes_per_chip(shape) for shape in program.earlier_results)
    if not earlier or compiled.error is not None:
        return compiled
    total = compiled.memory["total"] + earlier
    available = topology.chip.hbm_bytes
    error = None
    if total > available:
        error = (
            f"needs {total / 2**30:.2f} GiB of HBM per chip with the results of earlier programs,"
            f" {available / 2**30:.2f} GiB are available"
        )
    memory = compiled.memory | {"earlier results": earlier, "total": total}
    return dataclasses.replace(compiled, memory=memory, error=error)


def _bytes_per_chip(shape: jax.ShapeDtypeStruct) -> int:
    part = shape.shape if shape.sharding is None else shape.sharding.shard_shape(shape.shape)
    return math.prod(part) * shape.dtype.itemsize
