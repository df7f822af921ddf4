"""Plug-ins: what a configuration names as `package.module:Name`."""

import importlib
import os
import re
import sys
from typing import Any

from pav_jax.errors import BadInput

PATTERN = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
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
