"""What a compiled program moves: collectives by kind and network, and HBM traffic, in bytes of one
chip.

HBM traffic is an estimate: each instruction reads its operands and writes its result once. Arrays
in on-chip memory (`S(1)` in a TPU layout) and values inside a fusion cost nothing.
"""

import dataclasses
import functools
import re

from pav_jax.preflight.hlo import HloModule, Instruction, replica_groups, shape_bytes

COLLECTIVE = re.compile(
    r"(all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(-start)?"
)
# A program on several slices is compiled for one of them. It exchanges arrays with the runtime
# (Megascale), which runs the collective between slices.
MEGASCALE = re.compile(
    r'_xla_megascale_target="\{([\d,]+)\}x.*_xla_megascale_transfer_type="(\w+)"'
)
# Instructions that move nothing, or whose called computations are counted instead.
NO_TRAFFIC = {
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
SLICING = {"dynamic-slice", "slice", "gather"}


@dataclasses.dataclass
class CollectiveTraffic:
    """Traffic of one chip.

    Attributes:
      received: {(kind of collective, "ici" or "dcn"): bytes that arrive over that network}.
      count: {kind of collective: how often one runs}.
      hbm_bytes: bytes read from and written to HBM.
    """

    received: dict[tuple[str, str], float] = dataclasses.field(default_factory=dict)
    count: dict[str, float] = dataclasses.field(default_factory=dict)
    hbm_bytes: float = 0.0

    def bytes_over(self, network: str) -> float:
        """Bytes received over "ici" or "dcn"."""
        return sum(size for (_, name), size in self.received.items() if name == network)

    def __sub__(self, other: "CollectiveTraffic") -> "CollectiveTraffic":
        received = {key: size - other.received.get(key, 0.0) for key, size in self.received.items()}
        count = {kind: times - other.count.get(kind, 0.0) for kind, times in self.count.items()}
        return CollectiveTraffic(
            {key: size for key, size in received.items() if size},
            {kind: times for kind, times in count.items() if times},
            self.hbm_bytes - other.hbm_bytes,
        )


def received_bytes(kind: str, result_bytes: float, group_size: int) -> float:
    """Bytes that one chip receives in a collective, for the algorithms that move least.

    Args:
      kind: "all-gather", "all-reduce", ...
      result_bytes: size of the result on one chip.
      group_size: chips that take part.
    """
    n = group_size
    if n == 1:
        return 0.0
    share = {
        "all-gather": (n - 1) / n,
        "all-reduce": 2 * (n - 1) / n,
        "reduce-scatter": n - 1,
        "all-to-all": (n - 1) / n,
    }
    return result_bytes * share.get(kind, 1.0)


def measure_traffic(module: HloModule, default_trip_count: int = 1) -> CollectiveTraffic:
    """Measures what one run of a program moves.

    Args:
      default_trip_count: iterations assumed for each loop whose trip count is unknown.
    """
    counter = _TrafficCounter(module)
    traffic = CollectiveTraffic()
    for computation, times in module.executed(module.entry, 1, default_trip_count):
        if not times:
            continue
        for instruction, kind in counter.collectives(computation):
            network, size = counter.received(computation, instruction, kind)
            key = (kind, network)
            traffic.count[kind] = traffic.count.get(kind, 0) + times
            traffic.received[key] = traffic.received.get(key, 0.0) + times * size
        instructions = module.computations[computation].values()
        traffic.hbm_bytes += times * sum(counter.hbm_bytes(computation, i) for i in instructions)
    return traffic


@dataclasses.dataclass(frozen=True)
class _TrafficCounter:
    module: HloModule

    def collectives(self, computation: str) -> list[tuple[Instruction, str]]:
        """The collectives of a computation and of its fusions, with their kinds.

        On TPU one collective may be spread over several fusions, so that it overlaps with matrix
        products. All of them name one channel, and it counts once. An all-reduce of which each chip
        keeps a part is a reduce-scatter.
        """
        collectives: dict[tuple[str, str], tuple[Instruction, str]] = {}
        for instruction in self.module.computations[computation].values():
            if match := COLLECTIVE.fullmatch(instruction.opcode):
                collectives[instruction.name, ""] = instruction, match[1]
            elif match := _match_megascale_recv(instruction):
                kind = match[2].lower().replace("_", "-")
                collectives[instruction.name, ""] = instruction, kind
            elif instruction.opcode == "fusion":
                for key, value in self._fused_collectives(instruction).items():
                    collectives.setdefault(key, value)
        return list(collectives.values())

    def _fused_collectives(
        self, fusion: Instruction
    ) -> dict[tuple[str, str], tuple[Instruction, str]]:
        """{key that is equal for all parts of one collective: (instruction, kind)}."""
        computation = fusion.must_call("calls")
        collectives = {}
        for instruction, kind in self.collectives(computation):
            key = (fusion.name, instruction.name)
            channel = re.search(r"channel_id=\d+", instruction.arguments)
            if channel and "chain_id=" in instruction.arguments:
                key = (kind, channel[0])
            if computation.startswith("all-reduce-scatter"):
                kind = "reduce-scatter"
            collectives.setdefault(key, (instruction, kind))
        return collectives

    def _result_bytes(self, computation: str, instruction: Instruction) -> float:
        size = shape_bytes(instruction.shape)
        if instruction.opcode == "recv":
            return size - shape_bytes("u32[]")  # the shape includes the number of the transfer
        if _shape_includes_operands(instruction):
            size -= sum(
                shape_bytes(shape) for shape in self._operand_shapes(computation, instruction)
            )
        return size

    def _operand_shapes(self, computation: str, instruction: Instruction) -> list[str]:
        scope = self.module.computations[computation]
        return [scope[name].shape for name in instruction.operands if name in scope]

    def received(self, computation: str, instruction: Instruction, kind: str) -> tuple[str, float]:
        """The network that a collective uses, and the bytes that arrive at one chip over it."""
        result = self._result_bytes(computation, instruction)
        if instruction.opcode == "recv":
            match = _match_megascale_recv(instruction)
            assert match is not None, "collectives() checked it"
            num_slices = match[1].count(",") + 1
            return "dcn", received_bytes(kind, result, num_slices)
        if kind == "collective-permute":
            return "ici", result
        groups = replica_groups(instruction.arguments, self.module.num_partitions)
        group_size = groups.shape[1]
        if kind == "reduce-scatter" and instruction.opcode == "all-reduce":
            result /= group_size
        return "ici", received_bytes(kind, result, group_size)

    def hbm_bytes(self, computation: str, instruction: Instruction) -> int:
        """Bytes of HBM that an instruction reads and writes."""
        opcode = instruction.opcode
        is_free = opcode in NO_TRAFFIC or opcode.endswith("-done")
        if is_free or 'custom_call_target="AllocateBuffer"' in instruction.arguments:
            return 0
        written = shape_bytes(instruction.shape, hbm_only=True)
        if opcode in SLICING:
            return 2 * written
        scope = self.module.computations[computation]
        if opcode == "dynamic-update-slice":
            return 2 * shape_bytes(scope[instruction.operands[1]].shape, hbm_only=True)
        shapes = self._operand_shapes(computation, instruction)
        read = sum(shape_bytes(shape, hbm_only=True) for shape in shapes)
        if _shape_includes_operands(instruction):
            result = int(self._result_bytes(computation, instruction))
            return written - read + min(read, result)
        if opcode == "fusion":
            return self._fusion_bytes(computation, instruction)
        return written + read

    def _fusion_bytes(self, computation: str, fusion: Instruction) -> int:
        """Bytes of HBM that a fusion writes, and reads: of an operand that it slices only the
        slices."""
        scope = self.module.computations[computation]
        fused = fusion.must_call("calls")
        total = self._fusion_result_bytes(fused, fusion)
        for index, name in enumerate(fusion.operands):
            if name not in scope:
                continue
            operand_bytes = shape_bytes(scope[name].shape, hbm_only=True)
            if operand_bytes:
                total += min(operand_bytes, self._bytes_read(fused, index))
        return total

    def _fusion_result_bytes(self, fused: str, fusion: Instruction) -> int:
        """Bytes that a fusion writes: if it updates part of an array in place, that part."""
        root = self.module.root(fused)
        if root.opcode == "dynamic-update-slice" and "S(" not in fusion.shape:
            return shape_bytes(self.module.computations[fused][root.operands[1]].shape)
        return shape_bytes(fusion.shape, hbm_only=True)

    @functools.cache  # noqa: B019  (the counter lives only as long as measure_traffic runs)
    def _bytes_read(self, fused: str, index: int) -> int:
        """Bytes of parameter number `index` that a fused computation reads."""
        scope = self.module.computations[fused]
        aliases = {
            instruction.name
            for instruction in scope.values()
            if instruction.opcode == "parameter" and instruction.arguments.startswith(f"{index})")
        }
        total = 0
        for instruction in scope.values():
            for position, name in enumerate(instruction.operands):
                if name not in aliases:
                    continue
                if instruction.opcode == "bitcast" and not instruction.is_root:
                    aliases.add(instruction.name)
                elif instruction.opcode in SLICING and position == 0:
                    total += shape_bytes(instruction.shape)
                elif instruction.opcode == "fusion":
                    total += self._bytes_read(instruction.must_call("calls"), position)
                elif not (instruction.opcode == "dynamic-update-slice" and position == 0):
                    total += shape_bytes(scope[name].shape)
        return total


def _match_megascale_recv(instruction: Instruction) -> re.Match | None:
    """Matches what arrives from the runtime when slices run a collective."""
    if instruction.opcode != "recv":
        return None
    return MEGASCALE.search(instruction.arguments)


def _shape_includes_operands(instruction: Instruction) -> bool:
    """Whether the shape is a tuple of operands and results, as in asynchronous collectives."""
    return instruction.opcode.endswith("-start") and instruction.opcode != "all-reduce-start"
