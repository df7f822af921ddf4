"""A hook of MkDocs: the reference of the command line and of configurations, from the code."""

import argparse
import ast
import dataclasses
import re
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from mkdocs.structure.files import File, Files

from pav_jax import config as configuration
from pav_jax import config_fields, defaults, main
from pav_jax.evolve import registry as proposer_registry
from pav_jax.rewards import registry as reward_registry

EXPLAINED = re.compile(r"(pav .*?\S)\s{3,}(\S.*)")  # a command and what it does
LONGEST_DEFAULT = 300  # characters
COMMANDS_START = """# Command line

Written from the code of this version. `pav COMMAND --help` prints the same.

`pav` ends with status 0 (success), 1 (a failure that may pass), 2 (a user error, in one line that
names file, field and fix), 3 (a limit of [`budget`](../logs_and_budgets.md#budget) is reached) or
130 (interrupted).
"""
FIELDS_START = """# Configuration

Written from the code of this version. `--config` takes a Python file, or the name of a [shipped
configuration](configurations.md); every field below can be changed on the command line:

```bash
pav run --config=mini --workdir=runs/x --config.rounds=3 --config.rewards.weights="{'AES': 2}"
```

A configuration file defines `get_config()`. It starts from the defaults and sets what its
experiment changes:

```python
from pav_jax import defaults


def get_config():
    config = defaults.get_config()
    config.evolve.rounds = 3
    return config
```

A field that does not exist, or a value of another type or out of range, is refused in one line.
`None` is unset.
"""
SHIPPED_START = """# Shipped configurations

Written from the docstrings of the files in `configs/`, which come with the package:
`--config=mini` works in any folder. Where a text says "not run on a TPU yet", memory is what the
TPU compiler reports and time an estimate.
"""
REWARDS_START = """## Rewards

A kind is a name of `rewards.entries`, with its options as in `{"mps": {"path": "FOLDER"}}`, or the
`name` of an entry of `rewards.held_out`. A reward of your own has the kind `package.module:Name`.
"""
PROPOSERS_START = """## Proposers

The `kind` of an entry of `proposers`, or `package.module:Name`. Every entry has these fields, and
those of its kind:
"""


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages."""
    pages = {
        "commands.md": commands_page(main.parser()),
        "configuration.md": configuration_page(),
        "configurations.md": shipped_page(),
    }
    for name, content in pages.items():
        files.append(File.generated(config, f"reference/{name}", content=content))
    return files


def commands_page(parser: argparse.ArgumentParser) -> str:
    """All commands with their options."""
    return "\n".join([COMMANDS_START, *_command_sections(parser)])


def _command_sections(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield _command(command)
                yield from _command_sections(command)


def _command(command: argparse.ArgumentParser) -> str:
    lines = [f"## {command.prog}\n", f"{_text(command.description)}\n"]
    options = [
        action
        for action in command._actions
        if not isinstance(action, argparse._HelpAction | argparse._SubParsersAction)
    ]
    if options:
        lines += ["| option | |", "|---|---|", *map(_option_row, options)]
    examples = (command.epilog or "").partition("examples:\n")[2]
    if examples:
        shown = [EXPLAINED.sub(r"\1  # \2", line.strip()) for line in examples.splitlines()]
        lines += ["", "```bash", *shown, "```"]
    return "\n".join(lines) + "\n"


def _option_row(action: argparse.Action) -> str:
    names = ", ".join(f"`{name}`" for name in action.option_strings)
    value = action.metavar or (
        "{" + ",".join(map(str, action.choices)) + "}" if action.choices else action.dest.upper()
    )
    if not names:
        names = f"`{value}`"
    elif action.nargs != 0 and not isinstance(action, argparse.BooleanOptionalAction):
        names = names.rstrip("`") + f"={value}`"
    return f"| {_cell(names)} | {_cell(_text((action.help or '').replace('%%', '%')))} |"


def configuration_page() -> str:
    """All fields of a configuration, a table for each section."""
    lines = [FIELDS_START, *_sections(defaults.Config(), ""), REWARDS_START]
    for name, kind in reward_registry.KINDS.items():
        scores = ", ".join(f"`{score}`" for score in kind.names)
        reads = "videos" if kind.reads_video else "texts only"
        text = f"{_text(kind.options.__doc__)} Scores: {scores}. Reads {reads}."
        lines.append(f"### `{name}`\n\n{text}\n\n{_table(kind.options)}")
    lines += [PROPOSERS_START, _table(proposer_registry.MixtureOptions)]
    for name, (_, options) in proposer_registry.KINDS.items():
        lines.append(f"### `{name}` (proposer)\n\n{_table(options)}")
    return "\n".join(lines)


def _sections(section: Any, path: str) -> Iterator[str]:
    """The table of a section, and those of the sections in it."""
    level = "##" if path.count(".") == 0 else "###"
    title = f"`{path}`" if path else "Top level"
    is_described = path and not (type(section).__doc__ or "").startswith(type(section).__name__)
    text = f"{_text(type(section).__doc__)}\n" if is_described else ""
    yield f"{level} {title}\n\n{text}\n{_table(type(section), section)}"
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            yield from _sections(value, f"{path}.{field.name}".lstrip("."))


def _table(section: type, values: Any = None) -> str:
    kinds = config_fields.field_types(section)
    rows = []
    for field in dataclasses.fields(section):  # pyright: ignore
        default = _default(field) if values is None else getattr(values, field.name)
        kind = "section" if dataclasses.is_dataclass(default) else _type_name(*kinds[field.name])
        shown = "" if kind == "section" or default is dataclasses.MISSING else f"`{default!r}`"
        if len(shown) > LONGEST_DEFAULT:  # the proposers, which have tables of their own
            shown = ", ".join(f"`{name}`" for name in default)
        text = "; ".join(filter(None, [field.metadata.get("help", ""), _limits(field.metadata)]))
        rows.append(f"| `{field.name}` | {_cell(kind)} | {_cell(shown)} | {_cell(text)} |")
    if not rows:
        return "No options.\n"
    return "\n".join(["| field | type | default | |", "|---|---|---|---|", *rows, ""])


def _default(field: dataclasses.Field) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _type_name(kind: Any, is_optional: bool) -> str:
    origin = typing.get_origin(kind) or kind
    if isinstance(origin, type) and issubclass(origin, Mapping):
        name = "mapping"
    elif origin is typing.Literal:
        name = "str"
    else:
        name = str(kind) if typing.get_args(kind) else getattr(origin, "__name__", str(kind))
    return f"{name} or None" if is_optional else name


def _limits(metadata: Mapping[str, Any]) -> str:
    """The allowed values of a field in words."""
    words = {"minimum": "at least", "maximum": "at most", "above": "above", "below": "below"}
    limits = [f"{text} {metadata[key]:,}" for key, text in words.items() if metadata.get(key)]
    if metadata.get("minimum") == 0:
        limits.insert(0, "at least 0")
    if metadata.get("choices"):
        limits.append("one of " + ", ".join(f"`{choice}`" for choice in metadata["choices"]))
    return ", ".join(limits)


def shipped_page() -> str:
    """The docstring of each shipped configuration, as it is."""
    sections = []
    for name in configuration.shipped_names():
        tree = ast.parse((configuration.SHIPPED / f"{name}.py").read_text())
        sections.append(f"## {name}\n\n``````text\n{ast.get_docstring(tree)}\n``````\n")
    return "\n".join([SHIPPED_START, *sections])


def _text(text: str | None) -> str:
    """Text of the code as Markdown: names in capitals and paths keep their characters."""
    return (text or "").replace("<", "&lt;").replace("*", r"\*").strip()


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")
