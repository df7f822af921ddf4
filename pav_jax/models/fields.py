"""Read published config.json files into configuration dataclasses."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from pav_jax.errors import BadInput


def select_fields(kind: type, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of `config` that are fields of the dataclass `kind`, lists as tuples."""
    names = {field.name for field in dataclasses.fields(kind)}
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in config.items()
        if name in names
    }


def check_fixed(
    config: Mapping[str, Any], fixed: Mapping[str, Any], source: str, reason: str = ""
) -> None:
    """Check fields of which only one value is supported; a missing field passes.

    Args:
      fixed: field -> its supported value.
      source: the file, named in errors.
      reason: appended to the message.

    Raises:
      BadInput: a field has another value.
    """
    for name, value in fixed.items():
        if config.get(name, value) != value:
            raise BadInput(
                f"{source}: {name} is {config[name]!r}; only {value!r} is supported{reason}",
                source=source,
                field=name,
            )
