"""The configuration of a work directory: `config.json`, written once and compared afterwards."""

import dataclasses
import json
import os
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from pav_jax import defaults
from pav_jax.config import load
from pav_jax.config_validation import check_plain, leaves, validate
from pav_jax.errors import BadInput
from pav_jax.storage.addresses import AnyPath, as_path, list_names
from pav_jax.storage.files import read_bounded, write_atomic, writing
from pav_jax.storage.json_files import MAX_JSON_BYTES, parse_json
from pav_jax.storage.lock import FILE as LOCK_FILE
from pav_jax.storage.lock import workdir_lock

FILE = "config.json"
CHANGEABLE_SECTIONS = ("budget",)  # which do not change results
NO_RESULTS = {FILE, LOCK_FILE, "logs"}  # what a run leaves that ended before its first result


def as_json(config: ConfigDict) -> dict[str, Any]:
    """The configuration as plain JSON values; tuples become lists."""
    return json.loads(json.dumps(config.to_dict()))


def bind_config_to_workdir(config: ConfigDict, workdir: str | os.PathLike) -> None:
    """Write `config.json` into a new work directory; in an existing one, compare with it.

    Sections that did not exist when the directory was made are added; `budget` may change. While
    the directory holds no result, any configuration replaces the saved one.

    Raises:
      BadInput: the directory has results of another configuration, is in use, or is a file.
    """
    file = as_path(workdir) / FILE
    values = as_json(config)
    with writing(file):
        is_new = not file.exists()
    if is_new:
        if as_path(workdir).exists() and not as_path(workdir).is_dir():
            raise BadInput(
                f"--workdir={workdir}: this is a file; name a folder", source="--workdir"
            )
        _write(file, values)
        return
    saved = saved_config(workdir)
    saved_values = _with_new_sections(saved, values)
    before = dict(leaves(_without_changeable(saved_values)))
    now = dict(leaves(_without_changeable(values)))
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            if _replaced(workdir, values):
                return
            raise _changed(file, name, saved_values, now)
    if values.keys() - saved.keys() or any(values[n] != saved[n] for n in CHANGEABLE_SECTIONS):
        _write(file, values)


def _replaced(workdir: str | os.PathLike, values: Mapping[str, Any]) -> bool:
    """Write `values` into a directory without results; False if that is not allowed.

    Of several processes only the first may: the others must have its configuration.

    Raises:
      BadInput: another run, which may not have a result yet, is at work in the directory.
    """
    if jax.process_index() or _has_results(workdir):
        return False
    with workdir_lock(workdir):
        if _has_results(workdir):  # of a run that ended in between
            return False
        _write(as_path(workdir) / FILE, values)
    return True


def _has_results(workdir: str | os.PathLike) -> bool:
    """Whether anything may depend on the configuration; true where that cannot be known."""
    try:
        return not NO_RESULTS.issuperset(list_names(as_path(workdir)))
    except OSError:
        return True


def saved_config(workdir: str | os.PathLike) -> dict[str, Any]:
    """The content of a work directory's `config.json`.

    Raises:
      BadInput: it is missing, cannot be read, or is not a JSON object.
    """
    file = as_path(workdir) / FILE
    try:
        data = read_bounded(file, MAX_JSON_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        raise BadInput(
            f"{workdir}: no config.json here; give --config=... to start a work directory",
            source=file,
        ) from None
    except (OSError, ValueError) as error:
        if isinstance(error, BadInput):
            raise
        reason = getattr(error, "strerror", None) or error
        raise BadInput(
            f"{file}: cannot be read ({reason}); check the file and its permissions", source=file
        ) from error
    values = parse_json(data, file, "delete it and give --config again")
    if not isinstance(values, dict):
        raise BadInput(f"{file}: not a JSON object; delete it and give --config again", source=file)
    return values


def config_for_workdir(
    path: str | None, overrides: Sequence[str], workdir: str | os.PathLike
) -> ConfigDict:
    """Return a stage's configuration: the file with overrides, or the saved one without both.

    Raises:
      BadInput: the file is missing or invalid, or `workdir` was created with a different one.
    """
    if path is None and not overrides:
        initial = as_json(defaults.get_config())
        saved = saved_config(workdir)
        file = as_path(workdir) / FILE
        try:
            check_plain(saved)
            _check_sections(defaults.Config(), saved, file)
            config = ConfigDict(_tuples(_with_new_sections(saved, initial)))
            validate(config)
        except BadInput as error:
            if error.source == os.fspath(file):
                raise
            raise BadInput(f"{file}: {error}", source=file, field=error.field) from error
        return config.lock()
    if path is None:
        raise BadInput(f"{overrides[0]}: needs a --config=... to change", source="--config")
    config = load(path, overrides)
    bind_config_to_workdir(config, workdir)
    return config


def _check_sections(section: Any, saved: Any, file: AnyPath, prefix: str = "") -> None:
    """Refuse a `config.json` of another version: a section that lacks fields or is no section.

    Args:
      section: a dataclass of the configuration; sections of the whole that are missing are new.
    """
    if not isinstance(saved, dict):
        raise BadInput(
            f"{file}: {prefix.rstrip('.')} must be a section; delete the file and give --config"
            " again",
            source=file,
            field=prefix.rstrip("."),
        )
    for field in dataclasses.fields(section):
        path = f"{prefix}{field.name}"
        if field.name not in saved:
            if not prefix:
                continue
            raise BadInput(
                f"{file}: the section {prefix.rstrip('.')} lacks the field {field.name!r}; the work"
                " directory is of another version, start a new one",
                source=file,
                field=path,
            )
        inner = getattr(section, field.name)
        if dataclasses.is_dataclass(inner):
            _check_sections(inner, saved[field.name], file, f"{path}.")


def _changed(file: Any, name: str, saved: Mapping, now: Mapping) -> BadInput:
    before = dict(leaves(saved))
    shown = [json.dumps(side[name]) if name in side else "nothing" for side in (before, now)]
    back = f", or go back to {_override(name, saved)}" if name in before else ""
    return BadInput(
        f"{file}: this work directory was made with {name} = {shown[0]}, now it is {shown[1]}; give"
        f" another --workdir{back}",
        source=os.fspath(file),
        field=name,
    )


def _override(name: str, saved: Any) -> str:
    """The word of a command line that sets a field, or the mapping it is in, to its saved value."""
    section: Any = defaults.get_config()
    path: list[str] = []
    for part in name.split("."):
        if not isinstance(section, ConfigDict) or (path and part not in section):
            break
        section = section.get(part)
        saved = saved[part]
        path.append(part)
    text = saved if isinstance(saved, str) else repr(_tuples(saved))
    return shlex.quote(f"--config.{'.'.join(path)}={text}")


def _write(file: AnyPath, values: Mapping[str, Any]) -> None:
    write_atomic(file, (json.dumps(values, indent=2) + "\n").encode())


def _with_new_sections(saved: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """`saved`, and the sections of `values` that it lacks."""
    return {name: value for name, value in values.items() if name not in saved} | dict(saved)


def _without_changeable(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in CHANGEABLE_SECTIONS}


def _tuples(value: Any) -> Any:
    """The tree with tuples in place of lists, as configurations have them."""
    if isinstance(value, dict):
        return {name: _tuples(item) for name, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
