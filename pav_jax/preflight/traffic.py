"""What a compiled program moves: collectives by kind and network, and traffic with the chip's
memory; bytes are those of one chip.

Memory traffic is an estimate: each instruction reads its operands and writes its result once; what
lives in on-chip memory (`S(1)` in a TPU layout) and what stays inside a fusion costs nothing.
"""

import dataclasses
import functools
import re

from pav_jax.preflight.hlo import Instruction, Program, array_bytes, device_groups

COLLECTIVE = re.compile(
    r"(all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(-start)?"
)
# between slices of TPUs a program is one slice's: it sends to and receives from the runtime, which
# does the collective
BETWEEN_SLICES = re.compile(
    r'_xla_megascale_target="\{([\d,]+)\}x.*_xla_megascale_transfer_type="(\w+)"'
)
# these move nothing, or their computations are counted in their stead
FREE = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "while",
    "conditional",
    "call",
    "after-all",
    "partition-id",
    "replica-id",
    "async-start",
    "async-update",
    "opt-barrier",
    "add-dependency",
    "send",
    "recv",
}
SLICES = {"dynamic-slice", "slice", "gather"}


@dataclasses.dataclass
class Moved:
    """Bytes per chip. `received`: {(collective, "ici" or "dcn"): bytes that arrive over that
    network}; `count`: {collective: how often one runs}; `memory`: bytes read from and written to
    the chip's memory."""

    received: dict[tuple[str, str], float] = dataclasses.field(default_factory=dict)
    count: dict[str, float] = dataclasses.field(default_factory=dict)
    memory: float = 0.0

    def over(self, network: str) -> float:
        return sum(size for (_, name), size in self.received.items() if name == network)

    def minus(self, other: "Moved") -> "Moved":
        received = {key: size - other.received.get(key, 0.0) for key, size in self.received.items()}
        count = {key: times - other.count.get(key, 0.0) for key, times in self.count.items()}
        return Moved(
            {k: v for k, v in received.items() if v},
            {k: v for k, v in count.items() if v},
            self.memory - other.memory,
        )


def received_bytes(kind: str, result: float, n: int) -> float:
    """Bytes that one of `n` members receives when the result has `result` bytes, by the algorithms
    that move least."""
    if n == 1:
        return 0.0
    share = {
        "all-gather": (n - 1) / n,
        "all-reduce": 2 * (n - 1) / n,
        "reduce-scatter": n - 1,
        "all-to-all": (n - 1) / n,
    }
    return result * share.get(kind, 1.0)


def moved(program: Program, open_trips: int = 1) -> Moved:
    """What one run moves, with `open_trips` iterations of each loop whose length is not known
    beforehand."""
    count, total = _Count(program), Moved()
    for computation, times in program.executed(program.entry, 1, open_trips):
        if not times:
            continue
        for one, kind in count.collectives(computation):
            network, size = count.received(computation, one, kind)
            total.count[kind] = total.count.get(kind, 0) + times
            total.received[kind, network] = total.received.get((kind, network), 0.0) + times * size
        instructions = program.computations[computation].values()
        total.memory += times * sum(count.traffic(computation, one) for one in instructions)
    return total


@dataclasses.dataclass(frozen=True)
class _Count:
    program: Program

    def collectives(self, computation: str) -> list[tuple[Instruction, str]]:
        """The collectives of a computation and of its fusions, with their kinds.

        TPU: one collective may be spread over several fusions, so that products run meanwhile; all
          parts name one
        channel, and it counts once. An all-reduce of which each chip keeps its part is a
        reduce-scatter.
        """
        found: dict[tuple[str, str], tuple[Instruction, str]] = {}
        for instruction in self.program.computations[computation].values():
            if kind := COLLECTIVE.fullmatch(instruction.op):
                found[instruction.name, ""] = instruction, kind[1]
            elif instruction.op == "recv" and (kind := BETWEEN_SLICES.search(instruction.rest)):
                found[instruction.name, ""] = instruction, kind[2].lower().replace("_", "-")
            elif instruction.op == "fusion":
                fused = instruction.computation("calls")
                for one, kind in self.collectives(fused):
                    channel = (
                        re.search(r"channel_id=\d+", one.rest) if "chain_id=" in one.rest else None
                    )
                    key = (kind, channel[0]) if channel else (instruction.name, one.name)
                    scatter = fused.startswith("all-reduce-scatter")
                    found.setdefault(key, (one, "reduce-scatter" if scatter else kind))
        return list(found.values())

    def _result_bytes(self, computation: str, one: Instruction) -> float:
        size = array_bytes(one.type)
        if one.op == "recv":
            return size - array_bytes("u32[]")  # the transfer's number is in its type
        if self._holds_operands(one):
            scope = self.program.computations[computation]
            size -= sum(array_bytes(scope[name].type) for name in one.operands if name in scope)
        return size

    @staticmethod
    def _holds_operands(one: Instruction) -> bool:
        """Whether its type is a tuple of operands and results, as of what starts and is waited for
        later."""
        return one.op.endswith("-start") and one.op != "all-reduce-start"

    def received(self, computation: str, one: Instruction, kind: str) -> tuple[str, float]:
        """The network, and the bytes that arrive at one chip over it."""
        result = self._result_bytes(computation, one)
        if one.op == "recv":
            slices = BETWEEN_SLICES.search(one.rest)[1].count(",") + 1
            return "dcn", received_bytes(kind, result, slices)
        if kind == "collective-permute":
            return "ici", result
        members = device_groups(one.rest, self.program.partitions).shape[1]
        if kind == "reduce-scatter" and one.op == "all-reduce":
            result /= members
        return "ici", received_bytes(kind, result, members)

    def traffic(self, computation: str, one: Instruction) -> int:
        """Bytes of the chip's memory that an instruction reads and writes."""
        if (
            one.op in FREE
            or one.op.endswith("-done")
            or 'custom_call_target="AllocateBuffer"' in one.rest
        ):
            return 0
        scope = self.program.computations[computation]
        if one.op in SLICES:
            return 2 * array_bytes(one.type, True)
        if one.op == "dynamic-update-slice":
            return 2 * array_bytes(scope[one.operands[1]].type, True)
        if self._holds_operands(one):
            held = sum(
                array_bytes(scope[name].type, True) for name in one.operands if name in scope
            )
            return (
                array_bytes(one.type, True)
                - held
                + min(held, int(self._result_bytes(computation, one)))
            )
        inner = one.computation("calls") if one.op == "fusion" else None
        written = self._written(inner, one) if inner else array_bytes(one.type, True)
        read = (
            self._read(inner, i, scope[name]) if inner else array_bytes(scope[name].type, True)
            for i, name in enumerate(one.operands)
            if name in scope
        )
        return written + sum(read)

    def _written(self, fused: str, fusion: Instruction) -> int:
        """A fusion that updates part of an array in place writes that part."""
        root = next(i for i in self.program.computations[fused].values() if i.root)
        if root.op == "dynamic-update-slice" and "S(" not in fusion.type:
            return array_bytes(self.program.computations[fused][root.operands[1]].type)
        return array_bytes(fusion.type, True)

    def _read(self, fused: str, index: int, operand: Instruction) -> int:
        """A fusion that uses slices of an operand reads those."""
        whole = array_bytes(operand.type, True)
        return min(whole, self._used(fused, index)) if whole else 0

    @functools.cache  # noqa: B019  (a program is looked at and dropped)
    def _used(self, fused: str, index: int) -> int:
        """Bytes of the fused computation's parameter number `index` that it looks at."""
        scope = self.program.computations[fused]
        names = {
            i.name for i in scope.values() if i.op == "parameter" and i.rest.startswith(f"{index})")
        }
        used = 0
        for one in scope.values():
            for place, name in enumerate(one.operands):
                if name not in names:
                    continue
                if one.op == "bitcast" and not one.root:
                    names.add(one.name)
                elif one.op in SLICES and place == 0:
                    used += array_bytes(one.type)
                elif one.op == "fusion":
                    used += self._used(one.computation("calls"), place)
                elif not (one.op == "dynamic-update-slice" and place == 0):
                    used += array_bytes(scope[name].type)
        return used
