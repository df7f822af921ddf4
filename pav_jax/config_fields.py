"""Configuration sections as dataclasses: fields with a help text, and their ConfigDict.

A section is a dataclass whose fields are made with `option`. `config_dict` turns it into the
ml_collections section that configuration files change; types follow from the annotations.
"""

import dataclasses
import difflib
import math
import operator
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from pav_jax.errors import BadInput

SCALARS = (bool, int, float, str, tuple)
TYPE_NAMES = {int: "an integer", float: "a number", bool: "true or false", str: "text"}
LARGEST_INTEGER = 2**63 - 1
T = TypeVar("T")


def option(
    default: Any = dataclasses.MISSING,
    help: str = "",  # noqa: A002  (the name that argparse uses)
    choices: Sequence[Any] | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> Any:
    """A dataclass field of a configuration section.

    Args:
      default: a value, or a callable without arguments (a class, a function) that makes one; None
        means that the field is unset.
      help: one line for readers and the documentation.
      choices: the values that are allowed.
      minimum, maximum: the inclusive range of a number.
      above, below: the exclusive range of a number.
    """
    metadata = {
        "help": help,
        "choices": choices,
        "minimum": minimum,
        "maximum": maximum,
        "above": above,
        "below": below,
    }
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
    check_fields(section, chosen, path)
    return section(**chosen)


def check_section(section: Any, values: Any, prefix: str = "") -> None:
    """Check all values of a section of the configuration, and of the sections within it.

    Args:
      section: a dataclass instance with the default values.
      values: a mapping of all fields.
      prefix: the dotted name of the section with a dot at its end; empty for the whole.

    Raises:
      BadInput: a field is missing or unknown, or its value does not fit.
    """
    kinds = field_types(type(section))
    if not isinstance(values, Mapping):
        path = prefix.rstrip(".")
        raise _bad(path, f"config.{path}={values!r}: it must be a section")
    for name in values:
        if name not in kinds:
            raise _bad(
                f"{prefix}{name}",
                f"config.{prefix}{name}: there is no such field; there are {', '.join(kinds)}",
            )
    for field in dataclasses.fields(section):
        path = f"{prefix}{field.name}"
        if field.name not in values:
            raise _bad(
                path,
                f"config.{path}: missing; start from pav_jax.defaults.get_config() and delete no"
                " field",
            )
        value = values[field.name]
        kind, allows_none = kinds[field.name]
        if dataclasses.is_dataclass(getattr(section, field.name)):
            check_section(getattr(section, field.name), value, f"{path}.")
        elif value is not None:
            check_option(field, kind, value, path, "config.")
        elif not allows_none:
            raise _bad(path, f"config.{path}=None: it must have a value")


def check_fields(section: type, values: Mapping[str, Any], path: str) -> None:
    """Check the values of some fields of the dataclass `section`, as `check_option` does each.

    Raises:
      BadInput: the first value that does not fit.
    """
    fields = {field.name: field for field in dataclasses.fields(cast(Any, section))}
    kinds = field_types(section)
    for name, value in values.items():
        kind, allows_none = kinds[name]
        if value is not None or not allows_none:
            check_option(fields[name], kind, value, f"{path}.{name}")


def check_option(
    field: dataclasses.Field, kind: Any, value: Any, path: str, prefix: str = ""
) -> None:
    """Check the type, choices and range of one option; those of each member of a tuple or mapping.

    Args:
      kind: the type, without None.
      path: the dotted name.
      prefix: of the name in messages.

    Raises:
      BadInput: it does not fit; names `path` and the value.
    """
    if isinstance(value, Mapping) and _members(kind):
        for name, member in value.items():
            if member is not None:  # unset
                check_option(field, _members(kind)[-1], member, f"{path}.{name}", prefix)
        return
    problem = _type_problem(value, kind) or number_problem(value)
    members = value if isinstance(value, list | tuple) else (value,)
    problems = (_range_problem(member, field.metadata) for member in members)
    problem = problem or next(filter(None, problems), None)
    if problem is not None:
        raise _bad(path, f"{prefix}{path}={value!r}: {problem}")


def _members(kind: Any) -> tuple[Any, ...]:
    """(type of names, type of values) of an annotated mapping; () for any other type."""
    origin = typing.get_origin(kind)
    is_mapping = isinstance(origin, type) and issubclass(origin, Mapping)
    return typing.get_args(kind) if is_mapping else ()


def _type_problem(value: Any, kind: Any) -> str | None:
    if has_type(value, kind):
        return None
    origin = typing.get_origin(kind) or kind
    is_literal = origin is typing.Literal
    name = kind if is_literal else getattr(origin, "__name__", str(kind))
    members = [member for member in typing.get_args(kind) if member is not Ellipsis]
    if origin is tuple and len(members) == 1 and isinstance(value, list | tuple):
        return f"each member must be {TYPE_NAMES.get(members[0], members[0])}"
    return f"it must be {TYPE_NAMES.get(origin, name)}"


def number_problem(value: Any) -> str | None:
    """What is wrong with a number, or one of a list, that JSON or an int64 cannot hold."""
    for member in value if isinstance(value, list | tuple) else (value,):
        if isinstance(member, float) and not math.isfinite(member):
            return "it must be a finite number"
        if isinstance(member, int) and abs(member) > LARGEST_INTEGER:
            return f"its size must be at most {LARGEST_INTEGER}"
    return None


def _range_problem(value: Any, limits: Mapping[str, Any]) -> str | None:
    """What is wrong with a value, given the `choices` and the range of its field."""
    choices = limits.get("choices")
    if choices is not None and value not in choices:
        return f"choose from {', '.join(map(str, choices))}"
    bounds = {
        "minimum": (operator.ge, "at least"),
        "maximum": (operator.le, "at most"),
        "above": (operator.gt, "above"),
        "below": (operator.lt, "below"),
    }
    for name, (is_within, words) in bounds.items():
        limit = limits.get(name)
        if limit is not None and not is_within(value, limit):
            return f"it must be {words} {limit}"
    return None


def has_type(value: Any, annotation: Any) -> bool:
    """Whether a value fits an annotation, and the members of a tuple that of the tuple's members.

    A mapping's names and values are not checked.
    """
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
        member_kind = members[0] if members else Any
        return isinstance(value, list | tuple) and all(has_type(v, member_kind) for v in value)
    if kind is Any or not isinstance(kind, type):
        return True
    return isinstance(value, {float: int | float, dict: Mapping}.get(kind, kind))


def _bad(path: str, message: str) -> BadInput:
    return BadInput(message, source="configuration", field=path)
