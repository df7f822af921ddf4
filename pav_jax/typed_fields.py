"""Reads the fields of JSON files into dataclasses: types, ranges, finite numbers.

A field's annotation says what it may be: a scalar, `X | None`, a tuple, a `dict` by names, a
`Literal`, a dataclass (an object within the object), or `Annotated[X, Range(...)]`. A plain `int`
is a size and must be at least 1; a plain `float` must be finite.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar, cast

from pav_jax.errors import BadInput

MAX_INTEGER = 2**31 - 1  # what JAX takes as an index
MAX_FLOAT = 3.4e38  # of float32
MAX_ENTRIES = 4096  # of a list
SHOWN_CHARACTERS = 60  # of a value in a message
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Range:
    """The range of a number; bounds are inclusive.

    Attributes:
      minimum, maximum: None: no bound but what the type has.
      positive: zero is excluded as well.
    """

    minimum: float | None = None
    maximum: float | None = None
    positive: bool = False


@dataclasses.dataclass(frozen=True)
class Length:
    """The number of entries of a list, bounds inclusive."""

    minimum: int = 0
    maximum: int = MAX_ENTRIES


SIZE = Range(1, MAX_INTEGER)
NUMBER = Range(-MAX_FLOAT, MAX_FLOAT)
Depth = Annotated[int, Range(1, 1000)]  # layers and blocks, which are iterated over
TokenId = Annotated[int, Range(0, MAX_INTEGER)]
OptionalTokenId = Annotated[int, Range(-1, MAX_INTEGER)]  # -1: there is no such token
Positive = Annotated[float, Range(0, MAX_FLOAT, positive=True)]
NonNegative = Annotated[float, Range(0, MAX_FLOAT)]
Fraction = Annotated[float, Range(0, 1)]
# channels per level of a VAE; each level halves the picture, and 64 channels are many
Widths = Annotated[tuple[int, ...], Length(1, 16)]


def read_fields(
    kind: type[T],
    values: Any,
    source: str,
    section: str = "",
    names: Mapping[str, str] | None = None,
) -> T:
    """Make the dataclass `kind` from the entries of `values` that are fields of it.

    Args:
      values: a parsed JSON object; entries that are not fields are ignored.
      source: the file, named in errors.
      section: the dotted name of the object within the file; empty for the file itself.
      names: our field -> the file's field, where they differ.

    Raises:
      BadInput: not an object, a field is missing, of another type, or out of range.
    """
    hints = typing.get_type_hints(kind, include_extras=True)
    prefix = f"{section}." if section else ""
    values = check_object(values, source, section)
    chosen = {}
    for field in dataclasses.fields(cast(Any, kind)):
        name = (names or {}).get(field.name, field.name)
        if name in values:
            chosen[field.name] = read_value(
                values[name], hints[field.name], source, f"{prefix}{name}"
            )
        elif field.default is field.default_factory is dataclasses.MISSING:
            raise BadInput(
                f"{source}: field {prefix}{name} is missing; use a complete copy of the file",
                source=source,
                field=f"{prefix}{name}",
            )
    return kind(**chosen)


def check_object(value: Any, source: str, section: str = "") -> Mapping[str, Any]:
    """Return `value` if it is a JSON object.

    Raises:
      BadInput: it is not; the message names `source` and `section`.
    """
    if isinstance(value, Mapping):
        return value
    name = section or "the content"
    raise BadInput(
        f"{source}: {name} is {_shown(value)}; a JSON object {{...}} is needed",
        source=source,
        field=section or None,
    )


def read_value(value: Any, annotation: Any, source: str, name: str) -> Any:
    """Return a JSON value as `annotation` says: lists as tuples, whole numbers as floats.

    Args:
      source, name: the file and the dotted field, named in errors.

    Raises:
      BadInput: it is of another type or out of range.
    """
    limits: Any = None
    if typing.get_origin(annotation) is Annotated:
        annotation, limits = typing.get_args(annotation)[:2]
    origin = typing.get_origin(annotation)
    if origin in (types.UnionType, typing.Union):
        return _read_union(value, typing.get_args(annotation), source, name)
    if origin is tuple:
        return _read_tuple(value, typing.get_args(annotation), limits or Length(), source, name)
    if origin is typing.Literal:
        return _read_choice(value, typing.get_args(annotation), source, name)
    if dataclasses.is_dataclass(annotation):
        return read_fields(cast(type, annotation), value, source, name)
    if origin is dict:
        entries = check_object(value, source, name).items()
        kind = typing.get_args(annotation)[1]
        return {key: read_value(entry, kind, source, f"{name}.{key}") for key, entry in entries}
    if annotation in (int, float):
        return _read_number(value, annotation, limits, source, name)
    if not isinstance(value, annotation):
        kind = {str: "text", bool: "true or false"}[annotation]
        raise _bad(value, f"it must be {kind}", source, name)
    if annotation is str and "\0" in value:
        raise _bad(value, "it must not contain a zero byte", source, name)
    return value


def _read_union(value: Any, members: tuple, source: str, name: str) -> Any:
    if value is None and type(None) in members:
        return None
    members = tuple(member for member in members if member is not type(None))
    is_list = isinstance(value, list | tuple)
    for member in members:
        if (typing.get_origin(member) is tuple) == is_list:
            return read_value(value, member, source, name)
    return read_value(value, members[0], source, name)


def _read_tuple(value: Any, members: tuple, length: Length, source: str, name: str) -> tuple:
    if not isinstance(value, list | tuple):
        raise _bad(value, "it must be a list", source, name)
    if not length.minimum <= len(value) <= length.maximum:
        fix = f"it must have {length.minimum} to {length.maximum} entries"
        raise _bad(value, fix, source, name)
    if members[-1] is Ellipsis:
        members = (members[0],) * len(value)
    if len(value) != len(members):
        raise _bad(value, f"it must have {len(members)} entries", source, name)
    return tuple(
        read_value(entry, member, source, f"{name}[{i}]")
        for i, (entry, member) in enumerate(zip(value, members, strict=True))
    )


def _read_choice(value: Any, choices: tuple, source: str, name: str) -> Any:
    if not isinstance(value, str | int | bool | None) or value not in choices:
        raise _bad(value, f"choose one of {', '.join(map(str, choices))}", source, name)
    return value


def _read_number(value: Any, kind: type, limits: Range | None, source: str, name: str) -> Any:
    accepted = int if kind is int else int | float
    if isinstance(value, bool) or not isinstance(value, accepted):
        raise _bad(value, f"it must be {'an integer' if kind is int else 'a number'}", source, name)
    limits = limits or (SIZE if kind is int else NUMBER)
    if isinstance(value, float) and not math.isfinite(value):
        raise _bad(value, "it must be a finite number", source, name)
    if limits.positive and value <= 0:
        raise _bad(value, "it must be greater than 0", source, name)
    if limits.minimum is not None and value < limits.minimum:
        raise _bad(value, f"it must be at least {limits.minimum:g}", source, name)
    if limits.maximum is not None and value > limits.maximum:
        raise _bad(value, f"it must be at most {limits.maximum:g}", source, name)
    return kind(value)


def _bad(value: Any, fix: str, source: str, name: str) -> BadInput:
    return BadInput(
        f"{source}: {name} is {_shown(value)}; {fix}",
        source=source,
        field=name,
    )


def _shown(value: Any) -> str:
    """A value as a message shows it: short, without taking time or memory for a huge one."""
    if value is None:
        return "null"
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list | tuple) and len(value) > 8:  # noqa: PLR2004
        return f"a list of {len(value)} entries"
    if isinstance(value, int) and abs(value) > 10**SHOWN_CHARACTERS:
        return f"an integer of about {int(value.bit_length() * 0.30103) + 1} digits"
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."
