"""Check a whole configuration before anything is loaded or generated."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from pav_jax import defaults
from pav_jax.config_fields import field_types
from pav_jax.errors import BadInput
from pav_jax.evolve import registry as proposer_registry
from pav_jax.rewards.suite import RewardSuite
from pav_jax.train.config import check_training


def validate(config: Any) -> None:
    """Check ranges, choices, finite numbers, and the options of rewards and proposers.

    Raises:
      BadInput: the first field that cannot be used, with its name and value.
    """
    _check_section(defaults.Config(), config, "")
    _check_finite(config)
    RewardSuite.check_config(config.rewards)
    proposer_registry.check_config(config.proposers)
    for name in ("sft", "dpo", "grpo"):
        check_training(config[name], name)


def _check_section(section: Any, values: Any, prefix: str) -> None:
    kinds = field_types(type(section))
    for field in dataclasses.fields(section):
        if field.name not in values:  # a configuration of an older version
            continue
        path = f"{prefix}{field.name}"
        value = values[field.name]
        initial = getattr(section, field.name)
        if dataclasses.is_dataclass(initial):
            if not isinstance(value, Mapping | ConfigDict):
                raise _bad(path, value, "it must be a section")
            _check_section(initial, value, f"{path}.")
        elif value is not None:
            _check_value(field, value, path)
        elif not kinds[field.name][1]:
            raise _bad(path, value, "it must have a value")


def _check_value(field: dataclasses.Field, value: Any, path: str) -> None:
    choices = field.metadata.get("choices")
    values = value if isinstance(value, tuple | list) else (value,)
    if choices is not None and not set(values) <= set(choices):
        raise _bad(path, value, f"choose from {', '.join(map(str, choices))}")
    minimum = field.metadata.get("minimum")
    maximum = field.metadata.get("maximum")
    if minimum is not None and not value >= minimum:
        raise _bad(path, value, f"it must be at least {minimum}")
    if maximum is not None and not value <= maximum:
        raise _bad(path, value, f"it must be at most {maximum}")


def _check_finite(config: Any) -> None:
    for path, value in leaves(config.to_dict()):
        if isinstance(value, float) and not math.isfinite(value):
            raise _bad(path, value, "it must be a finite number")


def leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of everything in a tree of mappings; an empty mapping is a value."""
    if not isinstance(tree, Mapping) or not tree:
        yield prefix, tree
        return
    for name, value in tree.items():
        yield from leaves(value, f"{prefix}.{name}" if prefix else str(name))


def _bad(path: str, value: Any, fix: str) -> BadInput:
    return BadInput(f"config.{path}={value!r}: {fix}", source="configuration", field=path)
