"""The fast tier tries a few values of a parameter, the slow tier more, and tests by hand all."""

from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from tests.campaigns import by_hand


def first_fast(values: Iterable[Any], number: int = 1, slow: int | None = None) -> list[Any]:
    """Values, or tuples of several, for a test.

    Args:
      number: how many of them are in the fast tier.
      slow: how many more are in the slow tier; the others run by hand. None: all.
    """
    return _marked(values, [[]] * number, [pytest.mark.slow], slow)


def first_slow(values: Iterable[Any], number: int = 1) -> list[Any]:
    """Values, or tuples of several, for a slow test; all but the first `number` run by hand."""
    return _marked(values, [], [], number)


def _marked(values: Iterable[Any], first: list[list], second: list, number: int | None) -> list:
    """Parameters with the marks of `first`, then `number` with those of `second`, then others."""
    parameters: list[Sequence[Any]] = [v if isinstance(v, tuple) else (v,) for v in values]
    end = len(parameters) if number is None else len(first) + number
    marks = [*first, *[second] * (end - len(first))][: len(parameters)]
    marks += [[pytest.mark.slow, by_hand]] * (len(parameters) - len(marks))
    return [pytest.param(*p, marks=m) for p, m in zip(parameters, marks, strict=True)]
