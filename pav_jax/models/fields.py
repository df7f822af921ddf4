"""Read published config.json files into configuration dataclasses.

Types and ranges are those of the dataclasses, see `typed_fields`.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

from pav_jax.errors import BadInput
from pav_jax.models.layers import ACTIVATIONS
from pav_jax.typed_fields import check_object, read_fields

T = TypeVar("T")


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


def check_class(
    config: Mapping[str, Any], field: str, name: str, source: str, hint: str = ""
) -> None:
    """Check the field that names the model's class; a missing field passes.

    Raises:
      BadInput: it names another class.
    """
    if (value := config.get(field, name)) != name:
        raise BadInput(
            f"{source}: {field} is {value!r}; {name!r} is needed{hint}", source=source, field=field
        )


def fill_out_channels(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a diffusers transformer's fields; null as out_channels means in_channels."""
    values = dict(config)
    if values.get("out_channels", 0) is None:
        del values["out_channels"]
        if "in_channels" in values:
            values["out_channels"] = values["in_channels"]
    return values


def read_section(
    kind: type[T],
    raw: Any,
    names: Mapping[str, tuple[str, Any]],
    source: str,
    section: str,
) -> T:
    """Read a section of a transformers config that describes a transformer's sizes.

    Args:
      kind: the dataclass of the sizes.
      raw: the section.
      names: our field -> (transformers' field, its default). A pair [height, width] of equal sizes
        is read as one size.
      source, section: the file and the section's name in errors.

    Raises:
      BadInput: a field of another type or out of range, an unknown activation, heads that do not
        divide the width, or unequal sizes.
    """
    raw = check_object(raw, source, section)
    values = {theirs: raw.get(theirs, default) for theirs, default in names.values()}
    for field, value in values.items():
        if isinstance(value, list | tuple) and value:
            if any(entry != value[0] for entry in value):
                raise _section_error(source, section, field, "must be square: equal entries")
            values[field] = value[0]
    their_names = {ours: theirs for ours, (theirs, _) in names.items()}
    sizes = read_fields(kind, values, source, section, their_names)
    activation = values[their_names["activation"]]
    if activation not in ACTIVATIONS:
        raise _section_error(
            source,
            section,
            their_names["activation"],
            f"is {activation!r}; supported are {', '.join(ACTIVATIONS)}",
        )
    if "width" in names:
        width = values[their_names["width"]]
        heads = values[their_names["heads"]]
        if width % heads:
            raise _section_error(
                source,
                section,
                their_names["width"],
                f"is {width}; it must be a multiple of {their_names['heads']}={heads}",
            )
    return sizes


def write_section(sizes: Any, names: Mapping[str, tuple[str, Any]]) -> dict[str, Any]:
    """Invert `read_section`: return the fields of `sizes` under transformers' names."""
    return {theirs: getattr(sizes, ours) for ours, (theirs, _) in names.items()}


def _section_error(source: str, section: str, field: str, problem: str) -> BadInput:
    name = f"{section}.{field}"
    return BadInput(f"{source}: {name} {problem}", source=source, field=name)
