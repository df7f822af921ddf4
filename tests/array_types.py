"""Checks the shapes and dtypes that public functions promise, while the tests run.

Only jaxtyping's array annotations are checked: tests pass small stand-ins for models, which other
annotations forbid.
"""

from typing import Any

import beartype
import jaxtyping


def arrays_only(function: Any) -> Any:
    """A type checker for `jaxtyping.install_import_hook`."""
    hints = getattr(function, "__annotations__", {})
    array_hints = {
        name: hint
        for name, hint in hints.items()
        if isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray)
    }
    if isinstance(function, type) or not array_hints:
        return function
    function.__annotations__ = array_hints
    return beartype.beartype(function)
