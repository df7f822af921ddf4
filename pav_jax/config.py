"""Configurations: reading one from a Python file and the command line, and tying a work directory
to it.

A configuration file holds `get_config() -> ml_collections.ConfigDict` and starts from
`pav_jax.defaults.get_config()`, which lists every field there is with its type. Whatever is not in
that list is a mistake that is reported by name.
"""

import ast
import contextlib
import difflib
import importlib.util
import io
import json
import os
import re
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

from absl import flags
from etils import epath
from ml_collections import ConfigDict, config_flags

from pav_jax import defaults
from pav_jax.errors import BadInput
from pav_jax.storage.json_files import write_json

OVERRIDE = re.compile(r"--(no)?config\.(?P<path>[^=]+)(=(?P<value>.*))?", re.DOTALL)


def load(path: str | os.PathLike | None = None, overrides: Sequence[str] = ()) -> ConfigDict:
    """The configuration in the file `path` (the embedded default when None), changed by
    `overrides`.

    Args:
      path: a Python file with `get_config()`; `file.py:text` calls `get_config(text)`.
      overrides: as typed, `--config.evolve.rounds=2` each.

    Raises:
      BadInput: the file cannot be used, or a field is unknown or of another type; the message names
        it.
    """
    config = _from_file(os.fspath(path)) if path else defaults.get_config()
    config.lock()
    for override in overrides:
        _apply(config, override)
    return config


# -------------------------------------------------------------------------------------- from a file


def _from_file(path: str) -> ConfigDict:
    file, _, argument = path.partition(":")
    if not os.path.isfile(file):
        raise BadInput(
            f"--config={path}: no such file; a configuration is a Python file such as"
            " configs/mini.py"
        )
    spec = importlib.util.spec_from_file_location("pav_config", file)
    if spec is None or spec.loader is None:
        raise BadInput(
            f"--config={path}: not a Python file; a configuration is one such as configs/mini.py"
        )
    module = importlib.util.module_from_spec(spec)
    with _errors_of(file):
        spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise BadInput(f"{file}: holds no get_config(); see configs/mini.py")
        config = module.get_config(*([argument] if argument else []))
    if not isinstance(config, ConfigDict):
        raise BadInput(
            f"{file}: get_config() gave {type(config).__name__}, not an ml_collections.ConfigDict"
        )
    return config


@contextlib.contextmanager
def _errors_of(file: str) -> Iterator[None]:
    """Turns what a configuration file may raise into one line with the place in that file."""
    try:
        yield
    except BadInput:
        raise
    except SyntaxError as error:
        raise BadInput(f"{error.filename or file}:{error.lineno}: {error.msg}") from error
    except Exception as error:  # the file is the user's program; anything can happen in it
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
        raise BadInput(f"{file}:{lines[-1] if lines else 1}: {_message(error)}") from error


def _message(error: Exception) -> str:
    """ml_collections lists whole sections in its messages; this keeps the name and the guess."""
    text = str(error.args[0]) if error.args else type(error).__name__
    if unknown := re.search(r'Key "(.+?)" does not exist', text):
        guess = re.search(r'Did you mean "(.+?)"', text)
        return f"there is no field {unknown[1]!r}" + (
            f"; did you mean {guess[1]!r}?" if guess else ""
        )
    return text


# ---------------------------------------------------------------------------- from the command line


def split_overrides(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Takes the `--config.a.b=value` and `--config.a.b value` out of a command line -> (the rest,
    the overrides)."""
    rest, overrides, i = [], [], 0
    while i < len(argv):
        match = OVERRIDE.fullmatch(argv[i])
        if not match:
            rest.append(argv[i])
        elif (
            match["value"] is None
            and not match[1]
            and i + 1 < len(argv)
            and not argv[i + 1].startswith("--")
        ):
            overrides.append(f"{argv[i]}={argv[i + 1]}")
            i += 1
        else:
            overrides.append(argv[i])
        i += 1
    return rest, overrides


def _apply(config: ConfigDict, override: str) -> None:
    match = OVERRIDE.fullmatch(override)
    if not match:
        raise BadInput(
            f"{override}: not a change of the configuration; write --config.section.field=value"
        )
    holder, name = _check_known(config, match["path"])
    if holder.get_type(name) in (
        dict,
        type(None),
    ):  # config_flags has no parser for a mapping that may be None
        holder[name] = _mapping(override, match["value"])
        return
    argv = ["pav", override]
    values = flags.FlagValues()
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            values(argv)
    except (flags.Error, TypeError, ValueError) as error:
        kind = _type_name(holder, name)
        raise BadInput(
            f"{override}: the field {match['path']} is {kind}; this value does not fit"
        ) from error
    except AttributeError as error:  # a whole section given with a field that is not in it
        raise BadInput(f"{override}: {error.args[0] if error.args else error}") from error


def _mapping(override: str, text: str | None) -> dict | None:
    try:
        value = ast.literal_eval(text or "")
    except (SyntaxError, ValueError):
        value = text
    if value is not None and not isinstance(value, dict):
        raise BadInput(f"{override}: give a mapping such as \"{{'AES': 1.0}}\", or None")
    return value


def _check_known(config: ConfigDict, path: str) -> tuple[ConfigDict, str]:
    """The section that holds the field, and the field's name in it."""
    here: Any = config
    names = path.split(".")
    for depth, name in enumerate(names):
        if not isinstance(here, ConfigDict):
            raise BadInput(
                f"--config.{path}: {'.'.join(names[:depth])} is a value, it has no fields"
            )
        if name not in here:
            near = difflib.get_close_matches(name, list(here), n=1, cutoff=0.5)
            hint = f"did you mean {'.'.join([*names[:depth], near[0]])}? " if near else ""
            place = f"the section {'.'.join(names[:depth])}" if depth else "the configuration"
            raise BadInput(
                f"--config.{path}: there is no field {name!r} in {place}; {hint}"
                f"It has {', '.join(sorted(here))}"
            )
        holder, here = here, here[name]
    return holder, names[-1]


def _type_name(holder: ConfigDict, name: str) -> str:
    kind, value = holder.get_type(name), holder[name]
    english = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "text",
        tuple: "a tuple",
        ConfigDict: "a section",
    }.get(kind, kind.__name__)
    return english if isinstance(value, ConfigDict) else f"{english} (now {value!r})"


# ---------------------------------------------------------------------------- in the work directory


def as_json(config: ConfigDict) -> dict[str, Any]:
    """The configuration as plain JSON values, tuples as lists."""
    return json.loads(json.dumps(config.to_dict()))


def claim(config: ConfigDict, workdir: str | os.PathLike) -> None:
    """Writes `config.json` on first use; afterwards makes sure that the same configuration came
    back.

    Sections that did not exist when the directory was made are added to it.

    Raises:
      BadInput: the directory was made with another configuration (names the first field that
        differs), or is a file.
    """
    file = epath.Path(workdir) / "config.json"
    if not file.exists():
        if epath.Path(workdir).exists() and not epath.Path(workdir).is_dir():
            raise BadInput(f"--workdir={workdir}: this is a file; name a folder")
        write_json(file, as_json(config))
        return
    known, given = saved(workdir), as_json(config)
    before, now = dict(_leaves(_with_new(known, given))), dict(_leaves(given))
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            old, new = (
                json.dumps(side[name]) if name in side else "nothing" for side in (before, now)
            )
            raise BadInput(
                f"{file}: this work directory was made with {name} = {old}, now it is {new}; give"
                f" another --workdir, or go back to --config.{name}={_typed_back(before.get(name))}"
            )
    if given.keys() - known.keys():
        write_json(file, given)


def saved(workdir: str | os.PathLike) -> dict[str, Any]:
    """The configuration that `claim` wrote in a work directory.

    Raises:
      BadInput: there is none, or it is broken.
    """
    file = epath.Path(workdir) / "config.json"
    if not file.exists():
        raise BadInput(
            f"{workdir}: no config.json here; give --config=... to start a work directory"
        )
    try:
        return json.loads(file.read_text())
    except ValueError as error:
        raise BadInput(
            f"{file}: not valid JSON ({error}); delete it and give --config again"
        ) from error


def for_workdir(
    path: str | None, overrides: Sequence[str], workdir: str | os.PathLike
) -> ConfigDict:
    """What a stage runs with: the file and overrides, or, with neither, what the work directory was
    made with."""
    if path is None and not overrides:
        config = ConfigDict(_tuples(_with_new(saved(workdir), as_json(defaults.get_config()))))
        config.lock()
        return config
    if path is None:
        raise BadInput(f"{overrides[0]}: needs a --config=... to change")
    config = load(path, overrides)
    claim(config, workdir)
    return config


def _with_new(known: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """`known`, and whole sections of `given` that are not in it."""
    return {name: value for name, value in given.items() if name not in known} | known


def _leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, dict) and tree:
        for name, value in tree.items():
            yield from _leaves(value, f"{prefix}.{name}" if prefix else name)
    else:
        yield prefix, tree


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _tuples(v) for k, v in value.items()}
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def _typed_back(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
