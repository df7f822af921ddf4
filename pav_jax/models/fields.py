"""Read published config.json files into configuration dataclasses."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from pav_jax.errors import BadInput
from pav_jax.models.layers import ACTIVATIONS


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


def read_section(
    raw: Mapping[str, Any], names: Mapping[str, tuple[str, Any]], source: str, section: str
) -> dict[str, Any]:
    """Read a section of a transformers config that describes a transformer's sizes.

    Args:
      raw: the section.
      names: our field -> (transformers' field, its default). A pair [height, width] of equal sizes
        is read as one size.
      source, section: the file and the section's name in errors.

    Raises:
      BadInput: an unknown activation, heads that do not divide the width, or unequal sizes.
    """
    values = {ours: raw.get(theirs, default) for ours, (theirs, default) in names.items()}
    for ours, value in values.items():
        if isinstance(value, list | tuple):
            if len(set(value)) != 1:
                raise _section_error(
                    source, section, names[ours][0], f"is {list(value)}; only squares are supported"
                )
            values[ours] = value[0]
    if values["activation"] not in ACTIVATIONS:
        raise _section_error(
            source,
            section,
            names["activation"][0],
            f"is {values['activation']!r}; supported are {', '.join(ACTIVATIONS)}",
        )
    if "width" in values and values["width"] % values["heads"]:
        raise _section_error(
            source,
            section,
            names["width"][0],
            f"is {values['width']}; it must be a multiple of {names['heads'][0]}={values['heads']}",
        )
    return values


def write_section(sizes: Any, names: Mapping[str, tuple[str, Any]]) -> dict[str, Any]:
    """Invert `read_section`: return the fields of `sizes` under transformers' names."""
    return {theirs: getattr(sizes, ours) for ours, (theirs, _) in names.items()}


def _section_error(source: str, section: str, field: str, problem: str) -> BadInput:
    name = f"{section}.{field}"
    return BadInput(f"{source}: {name} {problem}", source=source, field=name)
