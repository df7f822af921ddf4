"""A compiled program, read from its HLO text: its computations and how often each runs.

XLA's own cost analysis counts the body of a loop once. Here it counts as often as it runs: the trip
count is the one XLA noted (CPU, GPU), or what the loop's counter and its limit give (TPU). A loop
whose length is only known when it runs, such as decoding, is "open" and counts as often as the
caller says.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

import numpy as np

LINE = re.compile(r"\s+(ROOT )?%?([\w.-]+) = (\(.*?\)|\S+) ([a-z][a-z0-9-]*)\((.*)")
HEADER = re.compile(r"(ENTRY )?%?([\w.-]+) \(.*\{$")
ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\](?:\{([^}]*)\})?")
NAME = re.compile(r"%([\w.-]+)")
MESH_GROUPS = re.compile(  # mesh['x'=2,'y'=4], device_ids=([4,2]T(1,0)) {'y'}
    r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? \{(.*?)\}"
)


@dataclasses.dataclass(frozen=True)
class Instruction:
    name: str
    op: str
    type: str
    rest: str  # operands and attributes
    root: bool

    @functools.cached_property
    def operands(self) -> list[str]:
        return NAME.findall(self.rest.partition(")")[0])

    def computation(self, attribute: str) -> str | None:
        found = re.search(rf"\b{attribute}=%?([\w.-]+)", self.rest)
        return found[1] if found else None


def array_bytes(type_text: str, memory_only: bool = False) -> int:
    """Bytes of a type, `bf16[8,128]{1,0:T(8,128)}` or a tuple of such.

    Args:
      memory_only: leave out what has a memory space of its own, `S(n)`: on-chip memory and flags.
    """
    total = 0
    for kind, sizes, layout in ARRAY.findall(type_text):
        if memory_only and "S(" in layout:
            continue
        width = re.search(r"\d+", kind)
        bits = int(width[0]) if width else {"pred": 8}.get(kind, 0)
        total += math.prod(int(n) for n in sizes.split(",") if n) * bits // 8
    return total


def device_groups(rest: str, partitions: int) -> np.ndarray:
    """`replica_groups` of a collective -> device numbers [groups, members]; XLA writes them in
    three ways."""
    if listed := re.search(r"replica_groups=\{(\{[\d,{}]+\})\}", rest):
        return np.array(
            [[int(n) for n in group.split(",")] for group in re.findall(r"\{([\d,]+)\}", listed[1])]
        )
    if iota := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", rest):
        return _iota(iota[2], iota[3]).reshape(_numbers(iota[1]))
    if mesh := MESH_GROUPS.search(rest):
        return _mesh_groups(*mesh.groups())
    return np.arange(partitions)[None]


def _numbers(text: str) -> list[int]:
    return [int(n) for n in text.split(",")]


def _iota(shape: str, order: str | None) -> np.ndarray:
    sizes = _numbers(shape)
    grid = np.arange(math.prod(sizes)).reshape(sizes)
    return grid.transpose(_numbers(order)) if order else grid


def _mesh_groups(axes: str, shape: str | None, order: str | None, chosen: str) -> np.ndarray:
    """Groups along some axes, or parts `axis:(before)size` of axes, of a named mesh."""
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", axes)}
    parts = {
        name: (int(before or 1), int(size or sizes[name]))
        for name, before, size in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", chosen)
    }
    dims, grouped = [], []
    for name, size in sizes.items():
        before, part = parts.get(name, (1, 1))
        grouped.append(len(dims) + 1)
        dims += [before, part, size // before // part]
    ids = (_iota(shape, order) if shape else np.arange(math.prod(dims))).reshape(dims)
    rest = [i for i in range(len(dims)) if i not in grouped]
    return ids.transpose(rest + grouped).reshape(-1, math.prod(dims[i] for i in grouped))


def _tuple_index(one: Instruction) -> int | None:
    found = re.search(r"index=(\d+)", one.rest) if one.op == "get-tuple-element" else None
    return int(found[1]) if found else None


def _literal(scope: dict[str, Instruction], name: str) -> int | None:
    """The whole number `name` is, also behind copies."""
    found = scope[name]
    while found.op in ("copy", "bitcast", "convert") and found.operands[0] in scope:
        found = scope[found.operands[0]]
    value = re.match(r"-?\d+(?=\))", found.rest) if found.op == "constant" else None
    return int(value[0]) if value else None


def _added(scope: dict[str, Instruction], name: str) -> int:
    """What the chain of additions that ends in `name` adds up to."""
    one, total = scope[name], 0
    while one.op in ("add", "copy", "bitcast"):
        numbers = {operand: _literal(scope, operand) for operand in one.operands}
        total += sum(number for number in numbers.values() if number is not None)
        changing = [operand for operand, number in numbers.items() if number is None]
        if len(changing) != 1:
            break
        one = scope[changing[0]]
    return total


class Program:
    """The computations of one compiled program.

    Args:
      text: `compiled.as_text()`.

    Attributes:
      computations: {name: {instruction's name: instruction}}.
      partitions: chips it runs on.
    """

    def __init__(self, text: str):
        self.computations: dict[str, dict[str, Instruction]] = {}
        self.entry = ""
        found = re.search(r"num_partitions=(\d+)", text.partition("\n")[0])
        self.partitions = int(found[1]) if found else 1
        here: dict[str, Instruction] = {}
        for line in text.splitlines():
            if header := HEADER.match(line):
                here = self.computations[header[2]] = {}
                self.entry = header[2] if header[1] else self.entry
            elif found := LINE.match(line):
                root, name, kind, op, rest = found.groups()
                here[name] = Instruction(name, op, kind, rest, bool(root))

    def executed(self, name: str, times: float, open_trips: int) -> Iterator[tuple[str, float]]:
        """Every computation that `name` runs, itself first and fusions left out, and how often it
        does. Of a branch all sides count."""
        yield name, times
        for instruction in self.computations[name].values():
            if instruction.op == "while":
                trips = self.trip_count(name, instruction)
                trips = open_trips if trips is None else trips
                yield from self.executed(instruction.computation("body"), times * trips, open_trips)
            elif instruction.op == "conditional":
                for branch in self._branches(instruction):
                    yield from self.executed(branch, times, open_trips)
            elif instruction.op in ("call", "async-start"):
                called = instruction.computation("to_apply") or instruction.computation("calls")
                yield from self.executed(called, times, open_trips)

    def _branches(self, instruction: Instruction) -> list[str]:
        named = re.search(r"branch_computations=\{([^}]*)\}", instruction.rest)
        if named:
            return NAME.findall(named[1])
        return [instruction.computation(f"{side}_computation") for side in ("true", "false")]

    def trip_count(self, computation: str, loop: Instruction) -> int | None:
        """Of a `while`; None where it is not known before the program runs.

        Where XLA left no note, a counter in the loop's tuple is looked for: the condition compares
        it, the body adds to it. It begins at 0 where its beginning cannot be told.
        """
        if noted := re.search(r'known_trip_count":\{"n":"(\d+)"', loop.rest):
            return int(noted[1])
        outside = self.computations[computation]
        condition, body = (
            self.computations[loop.computation(part)] for part in ("condition", "body")
        )
        test, end = (next(i for i in part.values() if i.root) for part in (condition, body))
        if test.op != "compare" or "direction=LT" not in test.rest or end.op != "tuple":
            return None
        counter, limit = (condition[name] for name in test.operands)
        start = outside.get(loop.operands[0])

        def given(place: int) -> int | None:
            return (
                _literal(outside, start.operands[place])
                if start is not None and start.op == "tuple"
                else None
            )

        place, carried = _tuple_index(counter), _tuple_index(limit)
        last = _literal(condition, limit.name) if carried is None else given(carried)
        if place is None or last is None:
            return None
        return math.ceil((last - (given(place) or 0)) / (_added(body, end.operands[place]) or 1))
