"""Configuration sections as dataclasses: fields with a help text, and their ConfigDict.

A section is a dataclass whose fields are made with `option`. `config_dict` turns it into the
ml_collections section that configuration files change; types follow from the annotations.
"""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from pav_jax.errors import BadInput

SCALARS = (bool, int, float, str, tuple)
TYPE_NAMES = {int: "an integer", float: "a number", bool: "true or false", str: "text"}
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
      help: one line for readers and the documentation.
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
    return typing.Union[tuple(members)], allows_none  # noqa: UP007  (of one member: the member)


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


def parse_options(section: type[T], values: Any, path: str) -> T:
    """Make the dataclass `section` from an entry of a configuration, and check it.

    Args:
      values: a mapping of option names to values; options that are left out keep their defaults.
      path: the dotted name of the entry, such as "rewards.entries.mps".

    Raises:
      BadInput: not a mapping, an unknown or missing option, or one of another type or out of range.
    """
    if not isinstance(values, Mapping):
        raise _bad(path, f"{path}={values!r}: give a mapping of options, such as {{}}")
    fields = {field.name: field for field in dataclasses.fields(cast(Any, section))}
    chosen = {
        name: value.to_dict() if isinstance(value, ConfigDict) else value
        for name, value in values.items()
    }
    for name in chosen:
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            names = ", ".join(fields) or "none"
            raise _bad(
                f"{path}.{name}", f"{path}: there is no option {name!r}; {hint}It has {names}"
            )
    for name, field in fields.items():
        if field.default is field.default_factory is dataclasses.MISSING and name not in chosen:
            raise _bad(f"{path}.{name}", f"{path}: the option {name!r} is missing")
    kinds = field_types(section)
    for name, value in chosen.items():
        kind, allows_none = kinds[name]
        if value is not None or not allows_none:
            check_option(fields[name], kind, value, f"{path}.{name}")
    return section(**chosen)


def check_option(field: dataclasses.Field, kind: Any, value: Any, path: str) -> None:
    """Check the type, choices and range of one option.

    Raises:
      BadInput: it does not fit; names `path` and the value.
    """
    if not has_type(value, kind):
        origin = typing.get_origin(kind) or kind
        is_literal = origin is typing.Literal
        name = kind if is_literal else getattr(origin, "__name__", str(kind))
        raise _bad(path, f"{path}={value!r}: it must be {TYPE_NAMES.get(origin, name)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise _bad(path, f"{path}={value!r}: it must be a finite number")
    choices = field.metadata.get("choices")
    if choices is not None and value not in choices:
        raise _bad(path, f"{path}={value!r}: choose one of {', '.join(map(str, choices))}")
    minimum = field.metadata.get("minimum")
    if minimum is not None and not value >= minimum:
        raise _bad(path, f"{path}={value!r}: it must be at least {minimum}")
    maximum = field.metadata.get("maximum")
    if maximum is not None and not value <= maximum:
        raise _bad(path, f"{path}={value!r}: it must be at most {maximum}")


def has_type(value: Any, annotation: Any) -> bool:
    """Whether a value fits an annotation; parameters of generic types are not checked."""
    members = typing.get_args(annotation)
    origin = typing.get_origin(annotation)
    if origin is typing.Literal:
        return value in members
    if origin in (typing.Union, types.UnionType):
        return any(has_type(value, member) for member in members)
    kind = origin or annotation
    if kind in (int, float) and isinstance(value, bool):
        return False
    if kind in (tuple, Sequence):
        return isinstance(value, list | tuple)
    if kind is Any or not isinstance(kind, type):
        return True
    return isinstance(value, {float: int | float, dict: Mapping}.get(kind, kind))


def _bad(path: str, message: str) -> BadInput:
    return BadInput(message, source="configuration", field=path)
