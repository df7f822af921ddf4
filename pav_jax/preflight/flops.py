"""Floating point operations (FLOPs) of a traced program: matrix products and convolutions, two per
multiply-add.

Loop bodies count once per iteration. Recomputation and backward passes count; elementwise
operations do not.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn


def count_flops(jaxpr: Jaxpr | ClosedJaxpr, default_trip_count: int = 1) -> float:
    """Counts the FLOPs of one run, over all devices.

    Args:
      default_trip_count: iterations assumed for each loop whose trip count is unknown.
    """
    equations = jaxpr.jaxpr.eqns if isinstance(jaxpr, ClosedJaxpr) else jaxpr.eqns
    return sum(_equation_flops(equation, default_trip_count) for equation in equations)


def _equation_flops(equation: JaxprEqn, default_trip_count: int) -> float:
    name = equation.primitive.name
    params = equation.params
    if name == "dot_general":
        return _dot_flops(equation)
    if name == "ragged_dot_general":
        return _ragged_dot_flops(equation)
    if name == "conv_general_dilated":
        return _convolution_flops(equation)
    if name == "cond":
        return max(count_flops(branch, default_trip_count) for branch in params["branches"])
    if name == "while":
        return default_trip_count * count_flops(params["body_jaxpr"], default_trip_count)
    repeats = {
        "scan": lambda: params["length"],
        "shard_map": lambda: params["mesh"].size,  # its jaxpr is the program of one device
        "pallas_call": lambda: math.prod(params["grid_mapping"].grid),
    }
    if name in repeats:
        return repeats[name]() * count_flops(params["jaxpr"], default_trip_count)
    return sum(count_flops(inner, default_trip_count) for inner in _inner_jaxprs(params))


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


def _aval(variable: Any) -> Any:
    """The shaped array that a variable of a jaxpr stands for."""
    return variable.aval


def _inner_jaxprs(params: Mapping[str, Any]) -> Iterator[Jaxpr | ClosedJaxpr]:
    """The jaxprs among an equation's parameters: those of jit, remat and custom derivatives."""
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, Jaxpr | ClosedJaxpr):
                yield item
