"""Check a whole configuration before anything is loaded or generated."""

import dataclasses
import reprlib
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from pav_jax import defaults
from pav_jax.budget import check_budget
from pav_jax.config_fields import check_section, number_problem
from pav_jax.endpoints.addresses import check_address, check_credentials
from pav_jax.errors import BadInput
from pav_jax.evolve import registry as proposer_registry
from pav_jax.redaction import is_secret_name
from pav_jax.rewards import suite_config
from pav_jax.train.config import check_training

HTTP = ("http://", "https://")
MAX_DEPTH = 20  # of nested mappings and lists
BOUNDED_STAGES = ("rewards", "evolve", "select", "prefer", "grpo", "calibrate")
TRAINED = ("original", "base", "sft", "grpo")  # systems that evaluation knows besides dpo_N


def validate(config: Any) -> None:
    """Check types, ranges, choices, finite numbers, and values that exclude each other.

    Raises:
      BadInput: the first field that cannot be used, with its name and value.
    """
    values = config.to_dict() if isinstance(config, ConfigDict) else dict(config)
    check_plain(values)
    # at the top level a file may have fields of its own
    names = {field.name for field in dataclasses.fields(defaults.Config)}
    check_section(defaults.Config(), {n: v for n, v in values.items() if n in names})
    _check_secrets(values)
    suite_config.check_config(values["rewards"])
    for stage in BOUNDED_STAGES:
        suite_config.check_stage(values["rewards"], stage, values[stage])
    proposer_registry.check_config(values["proposers"])
    for name in ("sft", "dpo", "grpo"):
        check_training(values[name], name)
    _check_mesh(values["mesh"], "mesh")
    _check_mesh(values["generator"]["mesh"], "generator.mesh")
    _check_evaluation(values)
    check_budget(values["budget"])


def check_plain(value: Any, path: str = "", depth: int = 0) -> None:
    """Refuse what JSON cannot hold: sets, objects, NaN, infinity, other texts than Unicode.

    Raises:
      BadInput: names the value, or a nesting of over MAX_DEPTH mappings and lists.
    """
    if depth > MAX_DEPTH:
        raise BadInput(
            f"config.{path[:100]}: nested too deeply", source="configuration", field=path[:100]
        )
    if isinstance(value, Mapping):
        for name, item in value.items():
            if not isinstance(name, str):
                raise _bad(path, {name: ...}, "its names must be texts")
            check_plain(name, path, depth)
            check_plain(item, f"{path}.{name}" if path else name, depth + 1)
    elif isinstance(value, list | tuple):
        for item in value:
            check_plain(item, path, depth + 1)
    else:
        problem = _scalar_problem(value)
        if problem is not None:
            raise _bad(path, value, problem)


def _scalar_problem(value: Any) -> str | None:
    if isinstance(value, str):
        surrogates = any("\ud800" <= character <= "\udfff" for character in value)
        return "not Unicode text; check the terminal's encoding" if surrogates else None
    if isinstance(value, int | float):
        return number_problem(value)
    if value is not None:
        kind = type(value).__name__
        return f"{kind} cannot be written as JSON; use texts, numbers, tuples and mappings"
    return None


def _check_secrets(values: Mapping[str, Any]) -> None:
    """Refuse logins and keys, which would be written into the work directory."""
    generator = values["generator"]
    if generator["path"].startswith(HTTP):
        check_address(generator["path"], "generator.path", generator["endpoint"]["api_key_env"])
    for path, value, parents in _leaves_with_parents(values):
        names = path.split(".")
        if value and "options" in names and is_secret_name(names[-1]):
            raise BadInput(
                f"config.{path}: a key does not belong in a configuration, which is written into"
                " the work directory; put it in the environment variable that api_key_env names",
                source="configuration",
                field=path,
            )
        if isinstance(value, str) and "://" in value:
            check_credentials(value, path, str(parents[-1].get("api_key_env") or ""))


def _leaves_with_parents(
    tree: Any, prefix: str = "", parents: tuple[Mapping[str, Any], ...] = ()
) -> Iterator[tuple[str, Any, tuple[Mapping[str, Any], ...]]]:
    """(dotted name, value, the mappings around it) of everything, also within tuples."""
    if isinstance(tree, Mapping):
        for name, value in tree.items():
            path = f"{prefix}.{name}" if prefix else str(name)
            yield from _leaves_with_parents(value, path, (*parents, tree))
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from _leaves_with_parents(value, prefix, parents)
    else:
        yield prefix, tree, parents


def _check_mesh(mesh: Mapping[str, int], path: str) -> None:
    for axis, size in mesh.items():
        if size == 0:
            raise _bad(f"{path}.{axis}", size, "give the number of devices, or -1 for the others")
    open_axes = [axis for axis, size in mesh.items() if size == -1]
    if len(open_axes) > 1:
        raise _bad(f"{path}.{open_axes[1]}", -1, f"only one axis may be -1, and {open_axes[0]} is")


def _check_evaluation(values: Mapping[str, Any]) -> None:
    """Check the systems and seeds of evaluation, which is the last stage of a run."""
    evaluate = values["evaluate"]
    for field in ("systems", "seeds"):
        members = evaluate[field]
        if not members or len(set(members)) < len(members):
            raise _bad(f"evaluate.{field}", members, "give at least one, and each only once")
    chat = [
        entry.name
        for entry in proposer_registry.parse_entries(values["proposers"])
        if entry.kind == "chat"
    ]
    available = [*TRAINED, *chat, *evaluate["rewrite_files"]]
    for name in evaluate["systems"]:
        stage, _, number = name.rpartition("_")
        if name not in available and not (stage == "dpo" and number.isdecimal()):
            raise BadInput(
                f"config.evaluate.systems: there is no system {name!r}; choose from"
                f" {', '.join(available)}, dpo_1, dpo_2, ...",
                source="configuration",
                field="evaluate.systems",
            )


def leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of everything in a tree of mappings; an empty mapping is a value."""
    if not isinstance(tree, Mapping) or not tree:
        yield prefix, tree
        return
    for name, value in tree.items():
        yield from leaves(value, f"{prefix}.{name}" if prefix else str(name))


def _bad(path: str, value: Any, fix: str) -> BadInput:
    shown = reprlib.repr(value)
    return BadInput(f"config.{path}={shown}: {fix}", source="configuration", field=path)
