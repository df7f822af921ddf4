"""The fast tier tries a few values of a parameter, the slow tier all."""

from collections.abc import Iterable
from typing import Any

import pytest


def first_fast(values: Iterable[Any], number: int = 1) -> list[Any]:
    """Values, or tuples of several, for a test; all but the first `number` are marked as slow."""
    parameters = [value if isinstance(value, tuple) else (value,) for value in values]
    return [
        pytest.param(*parameter, marks=[pytest.mark.slow] if i >= number else [])
        for i, parameter in enumerate(parameters)
    ]
