"""Published config.json files read into our configurations."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from pav_jax.errors import BadInput


def select_fields(kind: type, config: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the fields that the dataclass `kind` has under the same names; lists become
    tuples."""
    names = {field.name for field in dataclasses.fields(kind)}
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in config.items()
        if name in names
    }


def check_fixed(
    config: Mapping[str, Any], fixed: Mapping[str, Any], source: str, why: str = ""
) -> None:
    """Raises BadInput where a field has another value than the only one that is supported."""
    for name, value in fixed.items():
        if config.get(name, value) != value:
            raise BadInput(
                f"{source}: {name} is {config[name]!r}; only {value!r} is supported{why}"
            )
