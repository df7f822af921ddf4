"""Floating point operations (FLOPs) of a traced program: matrix products and convolutions, two per
multiply-add.

Loop bodies count once per iteration. Recomputation and backward passes count; elementwise
operations do not. A ragged product counts each row once, with the matrix of its own group.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn


def count_flops(jaxpr: Jaxpr | ClosedJaxpr, default_trip_count: int = 1) -> float:
    """Counts the FLOPs of one run, over all devices.

    Args:
      default_trip_count: iterations assumed for each loop whose trip count is unknown.
    """
    return _Counter(default_trip_count)(jaxpr)


@dataclasses.dataclass(frozen=True)
class _Counter:
    """Counts the FLOPs of a jaxpr.

    Attributes:
      default_trip_count: iterations assumed for each loop whose trip count is unknown.
      group_shards: devices that the groups of ragged products are sharded over. Each of them is
        given the rows of all groups and multiplies those of its own: of each row, one does.
    """

    default_trip_count: int
    group_shards: int = 1

    def __call__(self, jaxpr: Jaxpr | ClosedJaxpr) -> float:
        equations = jaxpr.jaxpr.eqns if isinstance(jaxpr, ClosedJaxpr) else jaxpr.eqns
        return sum(map(self._equation, equations))

    def _equation(self, equation: JaxprEqn) -> float:
        name = equation.primitive.name
        params = equation.params
        if name in PRODUCTS:
            return PRODUCTS[name](equation)
        if name == "ragged_dot_general":
            return _ragged_dot_flops(equation) / self.group_shards
        if name == "cond":
            return max(map(self, params["branches"]))
        if name == "while":
            return self.default_trip_count * self(params["body_jaxpr"])
        if name == "shard_map":  # its jaxpr is the program of one device
            shards = params["mesh"].shape.get("expert", 1)
            return params["mesh"].size * dataclasses.replace(self, group_shards=shards)(
                params["jaxpr"]
            )
        if name == "scan":
            return params["length"] * self(params["jaxpr"])
        if name == "pallas_call":
            return math.prod(params["grid_mapping"].grid) * self(params["jaxpr"])
        return sum(map(self, _inner_jaxprs(params)))


def _dot_flops(equation: JaxprEqn) -> float:
    (contracted_axes, _), _ = equation.params["dimension_numbers"]
    contracted = math.prod(_aval(equation.invars[0]).shape[i] for i in contracted_axes)
    return 2 * _aval(equation.outvars[0]).size * contracted


def _ragged_dot_flops(equation: JaxprEqn) -> float:
    """Each row is multiplied with the matrix of its own group only."""
    dimensions = equation.params["ragged_dot_dimension_numbers"]
    (contracted_axes, _), (batch_axes, _) = dimensions.dot_dimension_numbers
    left, right = (_aval(variable).shape for variable in equation.invars[:2])
    shared = [left[axis] for axis in (*contracted_axes, *batch_axes)]
    groups = [right[axis] for axis in dimensions.rhs_group_dimensions]
    return 2 * math.prod(left) * math.prod(right) / math.prod((*shared, *groups))


def _convolution_flops(equation: JaxprEqn) -> float:
    kernel_shape = _aval(equation.invars[1]).shape
    output_features = kernel_shape[equation.params["dimension_numbers"].rhs_spec[0]]
    return 2 * _aval(equation.outvars[0]).size * math.prod(kernel_shape) / output_features


PRODUCTS = {"dot_general": _dot_flops, "conv_general_dilated": _convolution_flops}


def _aval(variable: Any) -> Any:
    """The shaped array that a variable of a jaxpr stands for."""
    return variable.aval


def _inner_jaxprs(params: Mapping[str, Any]) -> Iterator[Jaxpr | ClosedJaxpr]:
    """The jaxprs among an equation's parameters: those of jit, remat and custom derivatives."""
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, Jaxpr | ClosedJaxpr):
                yield item
