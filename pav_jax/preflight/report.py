"""The results of `pav check` as text and as JSON."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pav_jax.preflight.estimate import PhaseEstimate, ProgramReport
from pav_jax.preflight.topology import Topology
from pav_jax.preflight.traffic import CollectiveTraffic

GIB = 2**30
ASSUMPTIONS = ("num_examples", "row_length", "prompt_length")  # fields of config.check


# -------------------------------------------------------------------------------------------- text


def heading(topology: Topology, mesh: Mapping[str, int], check: Any, quick: bool = False) -> str:
    """Describes the chips, the assumptions and how each figure is obtained.

    Args:
      mesh: axis name -> size.
      check: the section `check` of the configuration.
      quick: whether programs are compiled with minimal effort.
    """
    chip = topology.chip
    slices = f"{topology.num_slices} slices of " if topology.num_slices > 1 else ""
    axes = ", ".join(f"{axis}={size}" for axis, size in mesh.items())
    effort = "full effort"
    if quick:
        effort = "minimal effort: memory and traffic differ from those of a run"
    return f"""\
{slices}{topology.name}, {len(topology.devices)} chips, mesh {axes}
  per chip        {chip.peak_flops / 1e12:.0f} TFLOP/s bfloat16, \
{chip.hbm_bytes / GIB:.0f} GiB HBM at {chip.hbm_bytes_per_s / 1e9:.0f} GB/s, \
ICI {topology.ici_bytes_per_s / 1e9:.0f} GB/s, DCN {chip.dcn_bytes_per_s / 1e9:.1f} GB/s \
({chip.source})
  assumed         {check.num_examples} examples, prompts of {check.prompt_length} tokens
  compiler        {effort}
  sources         HBM: reported by the compiler. FLOPs: counted in the traced program.
                  Collectives and HBM traffic: read from the compiled program, with loop trip
                  counts. Time, MFU and chip-hours: estimated from these (roofline)."""


def program_text(report: ProgramReport, topology: Topology, usd: float | None = None) -> str:
    """Describes one program.

    Args:
      usd: price of one chip-hour in US dollars.
    """
    compiled = report.compiled
    verdict = "yes" if compiled.error is None else f"NO: {compiled.error}"
    lines = [
        f"{report.program.name}: {report.program.batch}",
        f"  compiles        {verdict} ({compiled.seconds:.0f} s)",
    ]
    if compiled.memory:
        parts = [f"{k} {v / GIB:.2f}" for k, v in compiled.memory.items() if k != "total"]
        lines.append(
            f"  HBM             {compiled.memory['total'] / GIB:.2f} of"
            f" {topology.chip.hbm_bytes / GIB:.0f} GiB per chip"
            + (f": {', '.join(parts)}" if parts else "")
        )
    for estimate in report.estimates:
        if len(report.estimates) > 1:
            lines.append(f" {estimate.phase.name}")
        lines += _estimate_lines(estimate, usd)
    return "\n".join(lines)


def _estimate_lines(estimate: PhaseEstimate, usd: float | None) -> Iterator[str]:
    phase = estimate.phase
    seconds = estimate.seconds
    formula = f"{_amount(phase.flops, 'FLOP')} by formula, " if phase.flops else ""
    yield (
        f"  compute         {formula}{_amount(estimate.counted_flops, 'FLOP')} counted, over"
        f" {estimate.num_chips} chips"
    )
    yield f"  collectives     {_collectives(estimate.traffic)}"
    yield f"  HBM traffic     {_amount(estimate.traffic.hbm_bytes, 'B')} per chip"
    resources = ", ".join(
        f"{name} {_duration(value)}" for name, value in dataclasses.asdict(seconds).items() if value
    )
    yield (
        f"  time            {_duration(seconds.overlapped)} if everything overlaps,"
        f" {_duration(seconds.serial)} if nothing does: {resources}"
    )
    if estimate.mfu_upper_bound is not None:
        yield f"  MFU             at most {estimate.mfu_upper_bound:.0%}"
    yield f"  whole run       {phase.num_runs:,.0f} times: {_cost(estimate.chip_hours, usd)}"


def total_text(reports: Sequence[ProgramReport], usd: float | None) -> str:
    """The cost of all programs together; programs that do not compile are left out and named."""
    hours = [estimate.chip_hours for report in reports for estimate in report.estimates]
    failed = [report.program.name for report in reports if report.compiled.error is not None]
    total = (sum(overlapped for overlapped, _ in hours), sum(serial for _, serial in hours))
    note = f"; without programs that do not compile ({', '.join(failed)})" if failed else ""
    return f"total: {_cost(total, usd)}{note}"


def _cost(hours: tuple[float, float], usd: float | None) -> str:
    low, high = hours
    price = "" if usd is None else f", {usd * low:,.2f} to {usd * high:,.2f} USD"
    return f"{low:,.2f} to {high:,.2f} chip-hours{price}"


def _collectives(traffic: CollectiveTraffic) -> str:
    """The collectives, those that receive most bytes first."""

    def total_received(kind: str) -> float:
        return sum(size for (name, _), size in traffic.received.items() if name == kind)

    descriptions = []
    for kind in sorted(traffic.count, key=lambda kind: -total_received(kind)):
        sizes = [
            _amount(size, "B") + (" between slices" if network == "dcn" else "")
            for (name, network), size in traffic.received.items()
            if name == kind
        ]
        received = " and ".join(sizes) or "nothing"
        descriptions.append(f"{traffic.count[kind]:,.0f} {kind} receive {received}")
    return "; ".join(descriptions) + " per chip" if descriptions else "none"


def _amount(value: float, unit: str) -> str:
    for prefix, size in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"


def _duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


# -------------------------------------------------------------------------------------------- JSON


def as_json(
    reports: Sequence[ProgramReport],
    topology: Topology,
    mesh: Mapping[str, int],
    check: Any,
    usd: float | None,
    quick: bool = False,
) -> dict[str, Any]:
    """Everything in bytes, FLOPs and seconds. Arguments as in `heading` and `program_text`."""
    chip = dataclasses.asdict(topology.chip)
    return {
        "quick": quick,
        "topology": topology.name,
        "num_slices": topology.num_slices,
        "num_chips": len(topology.devices),
        "mesh": dict(mesh),
        "chip": chip | {"ici_bytes_per_s": topology.ici_bytes_per_s},
        "assumptions": {name: check[name] for name in ASSUMPTIONS},
        "usd_per_chip_hour": usd,
        "programs": [_program_json(report, usd) for report in reports],
    }


def _program_json(report: ProgramReport, usd: float | None) -> dict[str, Any]:
    return {
        "name": report.program.name,
        "batch": report.program.batch,
        "compiles": report.compiled.error is None,
        "error": report.compiled.error,
        "compile_seconds": report.compiled.seconds,
        "bytes_per_chip": report.compiled.memory,
        "phases": [_estimate_json(estimate, usd) for estimate in report.estimates],
    }


def _estimate_json(estimate: PhaseEstimate, usd: float | None) -> dict[str, Any]:
    traffic = estimate.traffic
    seconds = estimate.seconds
    return {
        "name": estimate.phase.name,
        "num_chips": estimate.num_chips,
        "num_runs": estimate.phase.num_runs,
        "flops_by_formula": estimate.phase.flops,
        "flops_counted": estimate.counted_flops,
        "collectives_per_chip": [
            {"kind": kind, "network": network, "bytes": size, "count": traffic.count[kind]}
            for (kind, network), size in traffic.received.items()
        ],
        "hbm_bytes_per_chip": traffic.hbm_bytes,
        "estimated": {
            "seconds": dataclasses.asdict(seconds)
            | {"overlapped": seconds.overlapped, "serial": seconds.serial},
            "mfu_upper_bound": estimate.mfu_upper_bound,
            "chip_hours": list(estimate.chip_hours),
            "usd": None if usd is None else [usd * hours for hours in estimate.chip_hours],
        },
    }
