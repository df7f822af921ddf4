"""Load a configuration from a Python file and the command line.

A configuration file defines `get_config() -> ml_collections.ConfigDict`, which starts from
`pav_jax.defaults.get_config()`. That module lists every field; an unknown field is an error.
"""

import ast
import contextlib
import difflib
import importlib.util
import io
import os
import re
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from pav_jax import config_fields, defaults
from pav_jax.config_overrides import OVERRIDE
from pav_jax.config_validation import validate
from pav_jax.errors import BadInput
from pav_jax.storage.addresses import ADDRESS, as_path, is_remote
from pav_jax.storage.folders import partial_copy

SHIPPED = Path(__file__).parent / "configs"
UNSET = ("None", "null", "none")
TYPE_NAMES = config_fields.TYPE_NAMES | {tuple: "a tuple", ConfigDict: "a section"}


def load(path: str | os.PathLike | None = None, overrides: Sequence[str] = ()) -> ConfigDict:
    """Load the configuration `path`, apply `overrides` and validate the result.

    Args:
      path: a Python file with `get_config()`, also in an object store, or the name of a shipped
        one such as "mini"; `file.py:TEXT` calls `get_config(TEXT)`. None: the defaults.
      overrides: command-line words, such as "--config.evolve.rounds=2".

    Raises:
      BadInput: the file cannot be used, or a field is unknown, of another type or out of range.
    """
    config = _from_file(os.fspath(path)) if path is not None else defaults.get_config()
    config.lock()
    for override in overrides:
        _apply(config, override)
    validate(config)
    return config


def shipped_names() -> list[str]:
    """The names of the configurations that come with the package."""
    return sorted(file.stem for file in SHIPPED.glob("*.py"))


# --------------------------------------------------------------------------------- from a file


def find_file(name: str) -> Path:
    """Resolve the file of `--config=NAME`: a path, or the name of a shipped configuration.

    A file in an object store is copied, with the other .py files of its folder, which it may load.

    Raises:
      BadInput: there is neither.
    """
    if is_remote(name):
        return _copy_of(name)
    file = Path(name)
    if os.path.isfile(name):
        return file
    shipped = SHIPPED / f"{name.removesuffix('.py')}.py"
    if name and os.sep not in name and os.path.isfile(shipped):
        return shipped
    near = difflib.get_close_matches(file.stem, shipped_names(), n=1)
    hint = f"did you mean --config={near[0]}?" if near else f"or {', '.join(shipped_names())}"
    raise BadInput(
        f"--config={name[:200]}: no such file; give a Python file such as my_config.py, {hint}",
        source="--config",
    )


def _copy_of(address: str) -> Path:
    file = as_path(address)
    copy = partial_copy(file.parent, (".py",), is_flat=True) / file.name
    if not copy.is_file():
        raise BadInput(
            f"--config={address}: no such file; give a Python file such as {file.parent}/mine.py",
            source="--config",
        )
    return copy


def _split_argument(path: str) -> tuple[str, str]:
    """`file.py:TEXT` -> (file.py, TEXT); the file may be gs://bucket/file.py."""
    scheme = match[0] if (match := ADDRESS.match(path)) else ""
    name, _, argument = path.removeprefix(scheme).partition(":")
    return scheme + name, argument


def _from_file(path: str) -> ConfigDict:
    name, argument = _split_argument(path)
    file = find_file(name)
    source = name if is_remote(name) else str(file)
    spec = importlib.util.spec_from_file_location("pav_config", file)
    if spec is None or spec.loader is None:
        raise BadInput(f"--config={path}: not a Python file; it must end in .py", source=source)
    module = importlib.util.module_from_spec(spec)
    with _one_line_errors(os.path.abspath(file), source):
        spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise BadInput(f"{source}: defines no get_config(); see configs/mini.py", source)
        config = module.get_config(*([argument] if argument else []))
    if not isinstance(config, ConfigDict):
        raise BadInput(
            f"{source}: get_config() returned {type(config).__name__}, not an"
            " ml_collections.ConfigDict",
            source=source,
        )
    return config


@contextlib.contextmanager
def _one_line_errors(file: str, name: str) -> Iterator[None]:
    """Turn whatever a configuration file raises into one line that names the file and the line.

    Args:
      file: the absolute path, as in tracebacks.
      name: what the line calls the file.
    """
    try:
        yield
    except (BadInput, KeyboardInterrupt):
        raise
    except SyntaxError as error:
        place = name if error.filename in (None, file) else error.filename
        raise BadInput(f"{place}:{error.lineno}: {error.msg}", source=name) from error
    except BaseException as error:  # the file is the user's program, which may also call exit()
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
        place = f"{name}:{lines[-1] if lines else 1}"
        raise BadInput(f"{place}: {_short_message(error)}", source=name) from error


def _short_message(error: BaseException) -> str:
    """Keep the field and the suggestion of ml_collections' message, which lists whole sections."""
    text = str(error.args[0]) if error.args else ""
    if isinstance(error, SystemExit):
        text = f"the file called exit({text})"
    text = text or type(error).__name__
    unknown = re.search(r'Key "(.+?)" does not exist', text)
    if unknown is None:
        return text
    suggestion = re.search(r'Did you mean "(.+?)"', text)
    hint = f"; did you mean {suggestion[1]!r}?" if suggestion else ""
    if mapping := _locked_mapping(error):
        add = f"{hint} Add" if hint else "; add"
        return f"{mapping} has no key {unknown[1]!r}{add} keys inside `with config.unlocked():`"
    return f"there is no field {unknown[1]!r}{hint}"


def _locked_mapping(error: BaseException) -> str:
    """The path of the mapping that a new key was set in; empty if it is a section of fields.

    The error names the key alone. The mapping is found in a variable of the user's functions.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    changed = frames[-1].f_locals.get("self") if frames else None
    variables = [value for frame in frames for value in frame.f_locals.values()]
    for config in variables:
        path = _path_of(changed, config) if isinstance(config, ConfigDict) else None
        if path and _is_mapping(path):
            return ".".join(path)
    return ""


def _path_of(section: Any, config: ConfigDict) -> list[str] | None:
    """The names that lead from `config` to the very object `section`; None if it is elsewhere."""
    if config is section:
        return []
    for name in config:
        value = config.get(name)
        path = _path_of(section, value) if isinstance(value, ConfigDict) else None
        if path is not None:
            return [name, *path]
    return None


def _is_mapping(path: Sequence[str]) -> bool:
    """Whether a field is, or is in, a mapping, which may have any keys."""
    section: Any = defaults.Config()
    for name in path:
        section = getattr(section, name, None)
        if isinstance(section, dict):
            return True
    return False


# ----------------------------------------------------------------------- from the command line


def _apply(config: ConfigDict, override: str) -> None:
    match = OVERRIDE.fullmatch(override)
    if match is None:
        raise BadInput(f"{override}: write --config.SECTION.FIELD=VALUE", source=override)
    path = match["path"]
    section, name = _section_of(config, path)
    kind = section.get_type(name)
    if match["value"] in UNSET and _may_be_unset(path, section, name):
        with section.ignore_type():
            section[name] = None
        return
    if kind in (dict, type(None)):  # config_flags cannot parse a mapping that may be None
        section[name] = _parse_mapping(override, path, match["value"])
        return
    values = flags.FlagValues()
    argv = ["pav", override]
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            values(argv)
    except (flags.Error, TypeError, ValueError) as error:
        raise BadInput(
            f"{override}: the field {path} is {_type_name(section, name)}; this value does not fit",
            source="--config",
            field=path,
        ) from error
    except AttributeError as error:  # a section given with a field that it does not have
        text = str(error.args[0]) if error.args else str(error)
        raise BadInput(f"{override}: {text}", source="--config", field=path) from error


def _may_be_unset(path: str, section: ConfigDict, name: str) -> bool:
    initial: Any = defaults.get_config()
    for part in path.split("."):
        initial = initial.get(part) if isinstance(initial, ConfigDict) else None
    return initial is None or section[name] is None


def _parse_mapping(override: str, path: str, text: str | None) -> dict | None:
    try:
        value = ast.literal_eval(text or "")
    except (SyntaxError, ValueError):
        value = text
    if value is not None and not isinstance(value, dict):
        raise BadInput(
            f"{override}: give a mapping such as \"{{'AES': 1.0}}\", or None",
            source="--config",
            field=path,
        )
    return value


def _section_of(config: ConfigDict, path: str) -> tuple[ConfigDict, str]:
    """The section that holds the field `path`, and the field's name in it."""
    names = path.split(".")
    section: Any = config
    for depth, name in enumerate(names):
        parent = ".".join(names[:depth])
        if not isinstance(section, ConfigDict):
            raise BadInput(
                f"--config.{path}: {parent} is a value, it has no fields",
                source="--config",
                field=path,
            )
        if name not in section:
            near = difflib.get_close_matches(name, list(section), n=1, cutoff=0.5)
            hint = f"did you mean {'.'.join([*names[:depth], near[0]])}? " if near else ""
            place = f"the section {parent}" if depth else "the configuration"
            raise BadInput(
                f"--config.{path}: there is no field {name!r} in {place}; {hint}"
                f"It has {', '.join(sorted(section))}",
                source="--config",
                field=path,
            )
        if depth < len(names) - 1:
            section = section[name]
    return section, names[-1]


def _type_name(section: ConfigDict, name: str) -> str:
    kind = section.get_type(name)
    english = TYPE_NAMES.get(kind, kind.__name__)
    value = section[name]
    return english if isinstance(value, ConfigDict) else f"{english} (now {value!r})"
