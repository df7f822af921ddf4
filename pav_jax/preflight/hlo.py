"""A compiled program read from its HLO text: its computations and how often each one runs.

XLA's own cost analysis counts the body of a loop once; here it counts once per iteration. The trip
count is the one that XLA annotated (CPU, GPU), or is derived from the loop counter and its limit
(TPU). The trip count of other loops, such as decoding, is only known at run time; the caller gives
a default for these.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

import numpy as np

INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.-]+) = (\(.*?\)|\S+) ([a-z][a-z0-9-]*)\((.*)")
COMPUTATION_HEADER = re.compile(r"(ENTRY )?%?([\w.-]+) \(.*\{$")
ARRAY_SHAPE = re.compile(r"([a-z]\w*)\[([\d,]*)\](?:\{([^}]*)\})?")
NAME = re.compile(r"%([\w.-]+)")
# replica_groups=mesh['x'=2,'y'=4], device_ids=([4,2]T(1,0)) {'y'}
MESH_GROUPS = re.compile(
    r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? \{(.*?)\}"
)

Computation = dict[str, "Instruction"]  # instructions by name


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of HLO: `name = shape opcode(operands), attributes`."""

    name: str
    opcode: str
    shape: str  # element type, sizes and layout, or a tuple of these
    arguments: str  # everything after the opcode's "(": operands and attributes
    is_root: bool

    @functools.cached_property
    def operands(self) -> list[str]:
        """Names of the operands."""
        return NAME.findall(self.arguments.partition(")")[0])

    def called(self, attribute: str) -> str | None:
        """The name of the computation that an attribute such as "calls" or "body" refers to."""
        match = re.search(rf"\b{attribute}=%?([\w.-]+)", self.arguments)
        return match[1] if match else None

    def must_call(self, attribute: str) -> str:
        """As `called`, for instructions that always have this attribute."""
        computation = self.called(attribute)
        assert computation is not None, f"{self.opcode} {self.name} has no {attribute}"
        return computation


def shape_bytes(shape: str, hbm_only: bool = False) -> int:
    """Bytes of an HLO shape such as `bf16[8,128]{1,0:T(8,128)}`, or of a tuple of shapes.

    Args:
      hbm_only: leave out arrays in another memory space, `S(n)`: on-chip memory and flags.
    """
    total = 0
    for element_type, sizes, layout in ARRAY_SHAPE.findall(shape):
        if hbm_only and "S(" in layout:
            continue
        elements = math.prod(int(size) for size in sizes.split(",") if size)
        total += elements * _bits(element_type) // 8
    return total


def _bits(element_type: str) -> int:
    if element_type == "pred":
        return 8
    width = re.search(r"\d+", element_type)
    return int(width[0]) if width else 0  # 0: token and opaque types


def replica_groups(arguments: str, num_partitions: int) -> np.ndarray:
    """Parses the `replica_groups` of a collective, which XLA writes in three forms.

    Args:
      arguments: operands and attributes of the collective.
      num_partitions: devices of the program, which form one group if no groups are written.

    Returns:
      Device numbers, int [groups, members].
    """
    if match := re.search(r"replica_groups=\{(\{[\d,{}]+\})\}", arguments):
        return np.array([_integers(group) for group in re.findall(r"\{([\d,]+)\}", match[1])])
    if match := re.search(
        r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", arguments
    ):
        return _iota(match[2], match[3]).reshape(_integers(match[1]))
    if match := MESH_GROUPS.search(arguments):
        return _mesh_groups(*match.groups())
    return np.arange(num_partitions)[None]


def _integers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _iota(shape: str, permutation: str | None) -> np.ndarray:
    sizes = _integers(shape)
    grid = np.arange(math.prod(sizes)).reshape(sizes)
    return grid.transpose(_integers(permutation)) if permutation else grid


def _mesh_groups(
    axes: str, shape: str | None, permutation: str | None, grouped_axes: str
) -> np.ndarray:
    """Groups along some axes of a named mesh, or along sub-axes `axis:(pre-size)size` of them."""
    axis_sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", axes)}
    sub_axes = {
        name: (int(pre_size or 1), int(size or axis_sizes[name]))
        for name, pre_size, size in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", grouped_axes)
    }
    # Every axis becomes three: before, in and after its grouped part.
    dims: list[int] = []
    grouped: list[int] = []
    for name, size in axis_sizes.items():
        pre_size, grouped_size = sub_axes.get(name, (1, 1))
        grouped.append(len(dims) + 1)
        dims += [pre_size, grouped_size, size // pre_size // grouped_size]
    device_ids = _iota(shape, permutation) if shape else np.arange(math.prod(dims))
    others = [i for i in range(len(dims)) if i not in grouped]
    group_size = math.prod(dims[i] for i in grouped)
    return device_ids.reshape(dims).transpose(others + grouped).reshape(-1, group_size)


class HloModule:
    """The computations of one compiled program.

    Args:
      text: `compiled.as_text()`.

    Attributes:
      computations: {name: {instruction name: instruction}}.
      entry: name of the computation that the program starts with.
      num_partitions: devices that it runs on.
    """

    def __init__(self, text: str):
        self.computations: dict[str, Computation] = {}
        self.entry = ""
        partitions = re.search(r"num_partitions=(\d+)", text.partition("\n")[0])
        self.num_partitions = int(partitions[1]) if partitions else 1
        computation: Computation = {}
        for line in text.splitlines():
            if header := COMPUTATION_HEADER.match(line):
                computation = self.computations[header[2]] = {}
                if header[1]:
                    self.entry = header[2]
            elif match := INSTRUCTION.match(line):
                root, name, shape, opcode, arguments = match.groups()
                computation[name] = Instruction(name, opcode, shape, arguments, bool(root))

    def root(self, computation: str) -> Instruction:
        """The instruction whose value a computation returns."""
        return next(i for i in self.computations[computation].values() if i.is_root)

    def executed(
        self, name: str, times: float, default_trip_count: int
    ) -> Iterator[tuple[str, float]]:
        """Yields every computation that `name` runs, itself first, with how often it runs.

        Fusions are left out. All branches of a conditional count.

        Args:
          times: how often `name` itself runs.
          default_trip_count: iterations assumed for each loop whose trip count is unknown.
        """
        yield name, times
        for instruction in self.computations[name].values():
            if instruction.opcode == "while":
                trips = self.trip_count(name, instruction)
                if trips is None:
                    trips = default_trip_count
                body = instruction.must_call("body")
                yield from self.executed(body, times * trips, default_trip_count)
            elif instruction.opcode == "conditional":
                for branch in self._branches(instruction):
                    yield from self.executed(branch, times, default_trip_count)
            elif instruction.opcode in ("call", "async-start"):
                callee = instruction.called("to_apply") or instruction.must_call("calls")
                yield from self.executed(callee, times, default_trip_count)

    def _branches(self, instruction: Instruction) -> list[str]:
        branches = re.search(r"branch_computations=\{([^}]*)\}", instruction.arguments)
        if branches:
            return NAME.findall(branches[1])
        return [instruction.must_call(f"{side}_computation") for side in ("true", "false")]

    def trip_count(self, computation: str, loop: Instruction) -> int | None:
        """The trip count of a `while`; None if it is unknown before the program runs.

        Without XLA's annotation it is derived from a counter in the loop's tuple, which the
        condition compares with a limit and the body increments. A counter whose initial value is
        not a constant is taken to start at 0.

        Args:
          computation: the computation that contains the loop.
        """
        if annotation := re.search(r'known_trip_count":\{"n":"(\d+)"', loop.arguments):
            return int(annotation[1])
        caller = self.computations[computation]
        condition = self.computations[loop.must_call("condition")]
        body = self.computations[loop.must_call("body")]
        test = self.root(loop.must_call("condition"))
        result = self.root(loop.must_call("body"))
        is_counted = test.opcode == "compare" and "direction=LT" in test.arguments
        if not is_counted or result.opcode != "tuple":
            return None
        counter, limit = (condition[name] for name in test.operands)
        counter_index = _tuple_index(counter)
        limit_index = _tuple_index(limit)
        if limit_index is None:
            end = _constant(condition, limit.name)
        else:
            end = _initial_value(caller, loop, limit_index)
        if counter_index is None or end is None:
            return None
        start = _initial_value(caller, loop, counter_index) or 0
        increment = _increment(body, result.operands[counter_index]) or 1
        return math.ceil((end - start) / increment)


def _tuple_index(instruction: Instruction) -> int | None:
    if instruction.opcode != "get-tuple-element":
        return None
    match = re.search(r"index=(\d+)", instruction.arguments)
    return int(match[1]) if match else None


def _initial_value(caller: Computation, loop: Instruction, index: int) -> int | None:
    """The constant that element `index` of the loop's tuple starts with, if it is one."""
    initial = caller.get(loop.operands[0])
    if initial is None or initial.opcode != "tuple":
        return None
    return _constant(caller, initial.operands[index])


def _constant(computation: Computation, name: str) -> int | None:
    """The integer constant that `name` stands for, looking through copies."""
    instruction = computation[name]
    while instruction.opcode in ("copy", "bitcast", "convert"):
        if instruction.operands[0] not in computation:
            break
        instruction = computation[instruction.operands[0]]
    if instruction.opcode != "constant":
        return None
    value = re.match(r"-?\d+(?=\))", instruction.arguments)
    return int(value[0]) if value else None


def _increment(computation: Computation, name: str) -> int:
    """The sum of the constants in the chain of additions that ends in `name`."""
    instruction = computation[name]
    total = 0
    while instruction.opcode in ("add", "copy", "bitcast"):
        constants = {operand: _constant(computation, operand) for operand in instruction.operands}
        total += sum(value for value in constants.values() if value is not None)
        variables = [operand for operand, value in constants.items() if value is None]
        if len(variables) != 1:
            break
        instruction = computation[variables[0]]
    return total
