"""From programs to figures: compile each, look at what came out, estimate time and price, and say
which is which."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from pav_jax.errors import BadInput
from pav_jax.preflight import operations
from pav_jax.preflight.compiler import Compiled, Roofline, Topology, compile_program, roofline
from pav_jax.preflight.program import Assumed, Part, Program
from pav_jax.preflight.traffic import Moved, moved

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A part's figures, of one run of it.

    Attributes:
      executed: operations over all its chips, counted in the program, recomputation included.
      moved: by one chip.
    """

    part: Part
    chips: int
    peak: float  # of one chip
    executed: float
    moved: Moved
    seconds: Roofline

    @property
    def mfu(self) -> float | None:
        """The most it can be: operations by formula over those the chips could do in the shortest
        possible time."""
        if self.part.operations is None or not self.seconds.overlapped:
            return None
        return self.part.operations / (self.chips * self.peak * self.seconds.overlapped)

    @property
    def chip_hours(self) -> tuple[float, float]:
        """Of the whole run: everything overlapped, nothing overlapped."""
        hours = self.part.runs * self.chips / 3600
        return hours * self.seconds.overlapped, hours * self.seconds.serial


@dataclasses.dataclass(frozen=True)
class Finding:
    program: Program
    compiled: Compiled
    estimates: tuple[Estimate, ...] = ()


def examine(program: Program, where: Topology) -> Finding:
    """Compiles a program and takes it apart."""
    try:
        traced = program.trace()
    except BadInput as error:
        return Finding(program, Compiled(0.0, str(error), {}))
    compiled = compile_program(traced.lower())
    if compiled.hlo is None:
        return Finding(program, compiled)
    chips = program.chips or len(where.devices)
    # what is linear in the turns of the open loop is known from none and one
    turns = (0, 1) if len(program.parts) == 2 else (1,)
    counts = [operations.count(traced.jaxpr, n) for n in turns]
    moves = [moved(compiled.hlo, n) for n in turns]
    if len(turns) == 2:
        counts[1], moves[1] = counts[1] - counts[0], moves[1].minus(moves[0])
    return Finding(
        program,
        compiled,
        tuple(
            Estimate(
                part,
                chips,
                where.chip.peak_flops,
                count,
                move,
                roofline(where, count / chips, move),
            )
            for part, count, move in zip(program.parts, counts, moves, strict=True)
        ),
    )


# ----------------------------------------------------------------------------------------- in words


def heading(where: Topology, mesh: dict[str, int], assumed: Assumed, quick: bool = False) -> str:
    chip, slices = where.chip, f"{where.slices} slices of " if where.slices > 1 else ""
    effort = (
        "the least effort: memory and traffic are not what a run has" if quick else "full effort"
    )
    return "\n".join(
        [
            (
                f"{slices}{where.name}, {len(where.devices)} chips, mesh"
                f" {', '.join(f'{k}={v}' for k, v in mesh.items())}"
            ),
            (
                f"  per chip        {chip.peak_flops / 1e12:.0f} TFLOP/s bfloat16,"
                f" {chip.hbm_bytes / GIB:.0f} GiB HBM at {chip.hbm_bytes_per_s / 1e9:.0f} GB/s, ICI"
                f" {where.ici_rate / 1e9:.0f} GB/s, data centre {chip.dcn_bytes_per_s / 1e9:.1f} GB/s"
                f" ({chip.source})"
            ),
            (
                f"  assumed         {assumed.examples} examples, prompts of {assumed.prompt_length}"
                " tokens"
            ),
            f"  compiled with   {effort}",
            (
                "  how we know     compiled: done. HBM: the compiler's figure. Operations: counted"
                " in the traced program."
            ),
            (
                "                  Collectives and traffic: read from the compiled one, loops as"
                " often as they run. The rest:"
            ),
            "                  estimated from these.",
        ]
    )


def block(found: Finding, where: Topology, usd: float | None = None) -> str:
    """A finding as lines of text.

    Args:
      usd: price of one chip for an hour.
    """
    compiled, needs = found.compiled, found.compiled.needs
    lines = [
        f"{found.program.name}: {found.program.batch}",
        (
            f"  compiles        {'yes' if compiled.reason is None else 'NO: ' + compiled.reason}"
            f" ({compiled.seconds:.0f} s)"
        ),
    ]
    if needs:
        detail = ", ".join(
            f"{name} {size / GIB:.2f}" for name, size in needs.items() if name != "total"
        )
        lines.append(
            f"  HBM             {needs['total'] / GIB:.2f} of {where.chip.hbm_bytes / GIB:.0f} GiB per"
            " chip" + (f": {detail}" if detail else "")
        )
    for one in found.estimates:
        if len(found.estimates) > 1:
            lines.append(f" {one.part.name}")
        lines += _estimate(one, usd)
    return "\n".join(lines)


def _estimate(one: Estimate, usd: float | None) -> Iterator[str]:
    formula = f"{_amount(one.part.operations, 'FLOP')} by formula, " if one.part.operations else ""
    yield (
        f"  operations      {formula}{_amount(one.executed, 'FLOP')} counted, over {one.chips}"
        " chips"
    )
    yield f"  collectives     {_collectives(one.moved)}"
    yield f"  memory traffic  {_amount(one.moved.memory, 'B')} per chip"
    s = one.seconds
    parts = ", ".join(
        f"{name} {_seconds(value)}" for name, value in dataclasses.asdict(s).items() if value
    )
    yield (
        f"  time            {_seconds(s.overlapped)} if all overlaps, {_seconds(s.serial)} if"
        f" nothing does: {parts}"
    )
    if one.mfu is not None:
        yield f"  MFU             at most {one.mfu:.0%}"
    yield f"  whole run       {one.part.runs:,.0f} times: {_cost(one.chip_hours, usd)}"


def total(findings: Sequence[Finding], usd: float | None) -> str:
    hours = [one.chip_hours for found in findings for one in found.estimates]
    refused = [found.program.name for found in findings if found.compiled.reason is not None]
    left_out = f"; without what does not compile ({', '.join(refused)})" if refused else ""
    return (
        f"all of it: {_cost((sum(h for h, _ in hours), sum(h for _, h in hours)), usd)}{left_out}"
    )


def _cost(hours: tuple[float, float], usd: float | None) -> str:
    price = f", {usd * hours[0]:,.2f} to {usd * hours[1]:,.2f} USD" if usd is not None else ""
    return f"{hours[0]:,.2f} to {hours[1]:,.2f} chip-hours{price}"


def _collectives(moved: Moved) -> str:
    shown = []
    for kind in sorted(
        moved.count, key=lambda k: -sum(v for (name, _), v in moved.received.items() if name == k)
    ):
        sizes = [
            f"{_amount(size, 'B')}{' between slices' if network == 'dcn' else ''}"
            for (name, network), size in moved.received.items()
            if name == kind
        ]
        shown.append(f"{moved.count[kind]:,.0f} {kind} receive {' and '.join(sizes) or 'nothing'}")
    return "; ".join(shown) + " per chip" if shown else "none"


def _amount(number: float, unit: str) -> str:
    for prefix, size in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {prefix}{unit}"
    return f"{number:.3g} {unit}"


def _seconds(number: float) -> str:
    return f"{number:.2f} s" if number >= 1 else f"{number * 1e3:.3g} ms"


# ------------------------------------------------------------------------------------------ as JSON


def as_json(
    findings: Sequence[Finding],
    where: Topology,
    mesh: dict[str, int],
    assumed: Assumed,
    usd: float | None,
    quick: bool = False,
) -> dict[str, Any]:
    """Everything, in bytes, operations and seconds."""
    chip = {f.name: getattr(where.chip, f.name) for f in dataclasses.fields(where.chip)}
    return {
        "quick": quick,
        "topology": where.name,
        "slices": where.slices,
        "chips": len(where.devices),
        "mesh": mesh,
        "chip": chip | {"ici_rate": where.ici_rate},
        "assumed": dataclasses.asdict(assumed),
        "usd_per_chip_hour": usd,
        "programs": [_finding(found, usd) for found in findings],
    }


def _finding(found: Finding, usd: float | None) -> dict[str, Any]:
    return {
        "name": found.program.name,
        "batch": found.program.batch,
        "compiles": found.compiled.reason is None,
        "reason": found.compiled.reason,
        "compile_seconds": found.compiled.seconds,
        "bytes_per_chip": found.compiled.needs,
        "parts": [_part(one, usd) for one in found.estimates],
    }


def _part(one: Estimate, usd: float | None) -> dict[str, Any]:
    received = [
        {"kind": kind, "network": network, "bytes": size, "count": one.moved.count[kind]}
        for (kind, network), size in one.moved.received.items()
    ]
    return {
        "name": one.part.name,
        "chips": one.chips,
        "runs": one.part.runs,
        "operations_formula": one.part.operations,
        "operations_counted": one.executed,
        "collectives_per_chip": received,
        "memory_traffic_per_chip": one.moved.memory,
        "estimated": {
            "seconds": (
                dataclasses.asdict(one.seconds)
                | {
                    "overlapped": one.seconds.overlapped,
                    "serial": one.seconds.serial,
                }
            ),
            "mfu_at_most": one.mfu,
            "chip_hours": list(one.chip_hours),
            "usd": None if usd is None else [usd * h for h in one.chip_hours],
        },
    }
