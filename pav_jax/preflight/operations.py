"""Floating point operations that a traced program asks for: matrix products and convolutions, two
per multiplication.

Loops count as often as they run, recomputation and backward passes count, elementwise work does
not.
"""

import math
from collections.abc import Iterator
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr


def count(jaxpr: Jaxpr | ClosedJaxpr, open_trips: int = 1) -> float:
    """Operations of one run over all devices, with `open_trips` iterations of every loop of unknown
    length."""
    total = 0.0
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        kind, parameters = equation.primitive.name, equation.params
        if kind == "dot_general":
            (contracted, _), _ = parameters["dimension_numbers"]
            total += (
                2
                * equation.outvars[0].aval.size
                * math.prod(equation.invars[0].aval.shape[i] for i in contracted)
            )
        elif kind == "conv_general_dilated":
            kernel, features = (
                equation.invars[1].aval.shape,
                parameters["dimension_numbers"].rhs_spec[0],
            )
            total += 2 * equation.outvars[0].aval.size * math.prod(kernel) / kernel[features]
        elif kind == "scan":
            total += parameters["length"] * count(parameters["jaxpr"], open_trips)
        elif kind == "while":
            total += open_trips * count(parameters["body_jaxpr"], open_trips)
        elif kind == "shard_map":  # its program is one device's
            total += parameters["mesh"].size * count(parameters["jaxpr"], open_trips)
        elif kind == "pallas_call":
            total += math.prod(parameters["grid_mapping"].grid) * count(
                parameters["jaxpr"], open_trips
            )
        elif kind == "cond":
            total += max(count(branch, open_trips) for branch in parameters["branches"])
        else:
            total += sum(count(inner, open_trips) for inner in _inner(parameters))
    return total


def _inner(parameters: dict[str, Any]) -> Iterator[Jaxpr | ClosedJaxpr]:
    """The programs that an operation carries: those of jit, remat and custom derivatives."""
    for value in parameters.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            if isinstance(one, Jaxpr | ClosedJaxpr):
                yield one
