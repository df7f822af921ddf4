"""The configuration of a work directory: `config.json`, written once and compared afterwards."""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from pav_jax import defaults
from pav_jax.config import load
from pav_jax.config_validation import leaves, validate
from pav_jax.errors import BadInput
from pav_jax.storage.addresses import AnyPath, as_path
from pav_jax.storage.files import write_atomic

FILE = "config.json"


def as_json(config: ConfigDict) -> dict[str, Any]:
    """The configuration as plain JSON values; tuples become lists."""
    return json.loads(json.dumps(config.to_dict()))


def bind_config_to_workdir(config: ConfigDict, workdir: str | os.PathLike) -> None:
    """Write `config.json` into a new work directory; in an existing one, compare with it.

    Sections that did not exist when the directory was made are added.

    Raises:
      BadInput: the directory was made with another configuration, or is a file.
    """
    file = as_path(workdir) / FILE
    values = as_json(config)
    if not file.exists():
        if as_path(workdir).exists() and not as_path(workdir).is_dir():
            raise BadInput(
                f"--workdir={workdir}: this is a file; name a folder", source="--workdir"
            )
        _write(file, values)
        return
    saved = saved_config(workdir)
    before = dict(leaves(_with_new_sections(saved, values)))
    now = dict(leaves(values))
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            raise _changed(file, name, before, now)
    if values.keys() - saved.keys():
        _write(file, values)


def saved_config(workdir: str | os.PathLike) -> dict[str, Any]:
    """The content of a work directory's `config.json`.

    Raises:
      BadInput: it is missing or is not a JSON object.
    """
    file = as_path(workdir) / FILE
    if not file.exists():
        raise BadInput(
            f"{workdir}: no config.json here; give --config=... to start a work directory",
            source=file,
        )
    try:
        values = json.loads(file.read_text())
    except ValueError as error:
        raise BadInput(
            f"{file}: not valid JSON ({error}); delete it and give --config again", source=file
        ) from error
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
        _check_sections(saved, initial, as_path(workdir) / FILE)
        config = ConfigDict(_tuples(_with_new_sections(saved, initial)))
        config.lock()
        validate(config)
        return config
    if path is None:
        raise BadInput(f"{overrides[0]}: needs a --config=... to change", source="--config")
    config = load(path, overrides)
    bind_config_to_workdir(config, workdir)
    return config


def _check_sections(saved: Mapping[str, Any], initial: Mapping[str, Any], file: AnyPath) -> None:
    """Refuse a `config.json` of another version: a section that lacks fields or is no section."""
    for name, section in saved.items():
        default = initial.get(name)
        if not isinstance(default, dict) or name in ("proposers", "rewards", "evaluate"):
            continue
        missing = sorted(default.keys() - section.keys()) if isinstance(section, dict) else ["..."]
        if missing:
            raise BadInput(
                f"{file}: the section {name} lacks the field {missing[0]!r}; the work directory is"
                " of another version, start a new one",
                source=file,
                field=f"{name}.{missing[0]}",
            )


def _changed(file: Any, name: str, before: Mapping, now: Mapping) -> BadInput:
    shown = [json.dumps(side[name]) if name in side else "nothing" for side in (before, now)]
    value = before.get(name)
    typed = value if isinstance(value, str) else repr(value)
    return BadInput(
        f"{file}: this work directory was made with {name} = {shown[0]}, now it is {shown[1]}; give"
        f" another --workdir, or go back to --config.{name}={typed}",
        source=os.fspath(file),
        field=name,
    )


def _write(file: AnyPath, values: Mapping[str, Any]) -> None:
    write_atomic(file, (json.dumps(values, indent=2) + "\n").encode())


def _with_new_sections(saved: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """`saved`, and the sections of `values` that it lacks."""
    return {name: value for name, value in values.items() if name not in saved} | dict(saved)


def _tuples(value: Any) -> Any:
    """The tree with tuples in place of lists, as configurations have them."""
    if isinstance(value, dict):
        return {name: _tuples(item) for name, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
