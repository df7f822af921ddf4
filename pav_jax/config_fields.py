"""Configuration sections as dataclasses: fields with a help text, and their ConfigDict.

A section is a dataclass whose fields are made with `option`. `config_dict` turns it into the
ml_collections section that configuration files change; types follow from the annotations.
"""

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

SCALARS = (bool, int, float, str, tuple)
T = TypeVar("T")


def option(
    default: Any = dataclasses.MISSING,
    help: str = "",  # noqa: A002  (the name that argparse uses)
    choices: Sequence[Any] | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
) -> Any:
    """A dataclass field of a configuration section.

    Args:
      default: a value, or a callable without arguments (a class, a function) that makes one; None
        means that the field is unset.
      help: one line for `--help` and the documentation.
      choices: the values that are allowed.
      minimum, maximum: the inclusive range of a number.
    """
    metadata = {"help": help, "choices": choices, "minimum": minimum, "maximum": maximum}
    if default is not dataclasses.MISSING and callable(default):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def optional_type(annotation: Any) -> tuple[Any, bool]:
    """Splits `X | None` into (X, True); any other annotation X gives (X, False)."""
    if typing.get_origin(annotation) not in (types.UnionType, typing.Union):
        return annotation, False
    members = [member for member in typing.get_args(annotation) if member is not type(None)]
    allows_none = len(members) < len(typing.get_args(annotation))
    return (members[0] if len(members) == 1 else Any), allows_none


def field_types(section: type) -> dict[str, tuple[Any, bool]]:
    """Name -> (type without None, whether None is allowed) of the fields of a dataclass."""
    hints = typing.get_type_hints(section)
    return {field.name: optional_type(hints[field.name]) for field in dataclasses.fields(section)}


def config_dict(section: Any) -> ConfigDict:
    """A section as a ConfigDict: nested dataclasses become sections, unset scalars placeholders.

    Args:
      section: an instance of a dataclass.
    """
    values: dict[str, Any] = {}
    kinds = field_types(type(section))
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        kind = typing.get_origin(kinds[field.name][0]) or kinds[field.name][0]
        if dataclasses.is_dataclass(value):
            values[field.name] = config_dict(value)
        elif value is None and kind in SCALARS:
            values[field.name] = placeholder(kind)
        elif isinstance(value, Mapping):
            values[field.name] = ConfigDict(dict(value))
        else:
            values[field.name] = value
    return ConfigDict(values)


def from_config_dict(section: type[T], values: Mapping[str, Any]) -> T:
    """The dataclass instance of a section; the inverse of `config_dict`.

    Args:
      values: a ConfigDict or a mapping with some of the fields; the others keep their defaults.
    """
    plain = values.to_dict() if isinstance(values, ConfigDict) else dict(values)
    kinds = field_types(section)
    for name, value in plain.items():
        kind = kinds[name][0] if name in kinds else None
        if isinstance(kind, type) and dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
            plain[name] = from_config_dict(kind, value)
    return section(**plain)
