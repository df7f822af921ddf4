"""Plug-ins: what a configuration names as `package.module:Name`, and the options of an entry."""

import dataclasses
import importlib
import os
import re
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from ml_collections import ConfigDict

from pav_jax.errors import BadInput

PATTERN = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
Options = TypeVar("Options")
SCHEMES = ("mini", "diffusers", "http", "https", "gs", "s3")  # of addresses, never of plug-ins


def is_plugin(name: str) -> bool:
    """Whether `name` has the form `package.module:Name`, such as "my_rewards:warmth"."""
    return PATTERN.fullmatch(name) is not None and name.partition(":")[0] not in SCHEMES


def import_plugin(name: str, field: str) -> Any:
    """Import the object `package.module:Name`; modules in the current folder are found too.

    Args:
      field: the field of the configuration that names it.

    Raises:
      BadInput: there is no such module, it fails while it is imported, or it lacks the name.
    """
    module_name, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        target: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            target = getattr(target, part)
    except AttributeError:
        raise BadInput(
            f"{field}={name}: the module {module_name} has no {attribute!r}",
            source="configuration",
            field=field,
        ) from None
    except Exception as error:  # the module is the user's program; importing it can raise anything
        raise BadInput(
            f"{field}={name}: the module {module_name} cannot be imported"
            f" ({type(error).__name__}: {error}); is it in the current folder or on PYTHONPATH?",
            source="configuration",
            field=field,
        ) from error
    return target


def parse_options(options_type: type[Options], values: Mapping[str, Any], field: str) -> Options:
    """Make the options dataclass of a plug-in from an entry of the configuration.

    Args:
      options_type: a dataclass.
      values: field name -> value; fields that are left out keep their defaults.
      field: the entry's place in the configuration, such as "proposers.chat".

    Raises:
      BadInput: an option is unknown, missing, or of the wrong type.
    """
    known = {f.name: f for f in dataclasses.fields(options_type)}  # pyright: ignore[reportArgumentType]
    hints = typing.get_type_hints(options_type)
    values = {
        name: value.to_dict() if isinstance(value, ConfigDict) else value
        for name, value in values.items()
    }
    for name, value in values.items():
        if name not in known:
            listed = f"there are {', '.join(known)}" if known else "there are none"
            raise _bad_option(f"{field}.{name}", f"unknown option; {listed}")
        if not _has_type(value, hints[name]):
            expected = getattr(hints[name], "__name__", str(hints[name]))
            raise _bad_option(f"{field}.{name}", f"{value!r} is not of type {expected}")
    for name, option in known.items():
        required = (option.default, option.default_factory) == (dataclasses.MISSING,) * 2
        if required and name not in values:
            raise _bad_option(f"{field}.{name}", "missing option")
    return options_type(**values)


def _has_type(value: Any, annotation: Any) -> bool:
    """Whether a value fits an annotation; parameters of generic types are not checked."""
    members = typing.get_args(annotation)
    origin = typing.get_origin(annotation)
    if annotation is Any or origin is typing.Literal:
        return annotation is Any or value in members
    if origin in (typing.Union, types.UnionType):
        return any(_has_type(value, member) for member in members)
    kind = origin or annotation
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind is Mapping or kind is dict:
        return isinstance(value, Mapping)
    if kind is tuple or kind is Sequence:
        return isinstance(value, list | tuple)
    return not isinstance(kind, type) or isinstance(value, kind)


def _bad_option(field: str, problem: str) -> BadInput:
    return BadInput(f"{field}: {problem}", source="configuration", field=field)
