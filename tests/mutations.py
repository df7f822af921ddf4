"""Random damage to files, from a seeded generator: what the tests of bad inputs apply.

A mutation changes one file in place and returns a few words on what it did.
"""

import dataclasses
import json
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from pav_jax import defaults

Mutation = Callable[[Path, random.Random], str]


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of input.

    Attributes:
      make: writes a valid input into a folder.
      files: patterns of the files to damage.
      mutate: damages one of them.
      command: the arguments of `pav` for (the folder, an output path that does not exist).
      cases: how many damaged inputs.
      valid: what the command gives for the valid input.
    """

    make: Callable[[Path], None]
    files: Sequence[str]
    mutate: Mutation
    command: Callable[[Path, Path], list[str]]
    cases: int
    valid: str = "works"


# values of the wrong type or out of range, as JSON text
WRONG_VALUES = (
    "null",
    "true",
    '"x"',
    '""',
    '"\\ud800\\u0000"',
    "-1",
    "0",
    "3",
    "0.5",
    "1e999",
    "-1e999",
    "NaN",
    "1000000",
    "9" * 400,
    "[]",
    "[[]]",
    '[1, "x"]',
    "{}",
    '{"a": null}',
    "[" * 60 + "]" * 60,
)
WRONG_FILES = (
    b"",
    b"null",
    b"[]",
    b"3",
    b'"text"',
    b"{",
    b"\0" * 64,
    b"[" * 50_000,
    b'{"a": ' * 50_000,
    b'{"a": ' + b"9" * 5000 + b"}",
)
WRONG_TEMPLATES = (
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{{ 'a' * 10**10 }}",
    "{{ 10**10**10 }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% include 'other' %}",
    "{% import 'os' as os %}",
    "{{ 1 / 0 }}",
    "{{ 1 // 0 }}",
    "{{ messages[99]['content'] }}",
    "{{ missing.field.field }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ raise_exception('no') }}",
    "{% for m in messages %}",
    "{% endfor %}",
    "{{ messages | nofilter }}",
    "{{ '%99999999999d' | format(1) }}",
    "{{ messages.append(1) }}",
    "\ud7ff{{",
)
# values on the command line, beside WRONG_VALUES
WRONG_OPTIONS = (
    "None",
    "",
    "True",
    "{'AES': 1.0}",
    "{'AES': 'x'}",
    "{'x': {}}",
    "{'x': 5}",
    "{1, 2}",
    "('a', 1)",
    "(-1,)",
    "[1",
    "\ud800",
    "/",
    "gs://",
    "http://user:key@host/",
    "http://host:99999",
    "no.such.module:Name",
    "x" * 10_000,
)
WRONG_STATEMENTS = (
    "config.seed = 'x'",
    "config.no_such_field = 1",
    "config.evolve.round = 1",
    "del config.sft",
    "del config.evolve.rounds",
    "config.generator = 3",
    "config.mesh = {1, 2}",
    "config.evolve.rounds = 10**30",
    "config.rewards.weights = {'AES': float('nan')}",
    "config.rewards.weights = {}",
    "config.rewards.constraints = {'FAITH': 7.0}",
    "config.rewards.entries = {'no_such_reward': {}}",
    "config.evaluate.seeds = ('x',)",
    "config.evaluate.systems = (b'x',)",
    "config.report.title = '\\ud800'",
    "config = None",
    "config = {}",
    "return {'seed': 3}",
    "raise SystemExit(3)",
    "raise BaseException",
    "raise KeyError",
    "import no_such_module",
    "1 / 0",
    "x = [[]]; x[0].append(x); config.generator.options = {'x': x}",
    "config.generator.options = {'a': open}",
    "config.generator.options = {3: 4}",
)
WRONG_STATUS = (204, 301, 302, 400, 401, 404, 408, 429, 500, 503, 599)


def mutate_json(path: Path, rng: random.Random) -> str:
    """Replace, remove or rename one value of a JSON file, or replace the whole file."""
    if rng.random() < 0.2:
        return _replace_file(path, rng)
    text, damage = _mutate_value(json.loads(path.read_text()), rng)
    path.write_text(text)
    return f"{path.name}: {damage}"


def mutate_records(path: Path, rng: random.Random) -> str:
    """Damage one line of a JSON Lines file as `mutate_json` does, cut it, or replace the file."""
    if rng.random() < 0.15:
        return _replace_file(path, rng)
    lines = path.read_text().splitlines()
    number = rng.randrange(len(lines))
    if rng.random() < 0.2:
        lines[number] = lines[number][: rng.randrange(len(lines[number]))]
        damage = "cut"
    else:
        lines[number], damage = _mutate_value(json.loads(lines[number]), rng)
    path.write_text("\n".join(lines) + "\n")
    return f"{path.name}:{number + 1}: {damage}"


def mutate_answer(path: Path, rng: random.Random) -> str:
    """Damage what an endpoint answers, JSON or a video, or its status (`answer_of`)."""
    if rng.random() < 0.2:
        status = rng.choice(WRONG_STATUS)
        path.with_name("status").write_text(str(status))
        return f"status {status}"
    return (mutate_json if path.suffix == ".json" else mutate_binary)(path, rng)


def answer_of(folder: Path) -> tuple[int, bytes]:
    """(status, content) of the answer in a folder; an empty one where it was removed."""
    status = folder / "status"
    contents = [file.read_bytes() for file in folder.glob("answer.*") if file.is_file()]
    return int(status.read_text()) if status.exists() else 200, b"".join(contents)


def mutate_options(path: Path, rng: random.Random) -> str:
    """Write an option that sets a field or a section of the configuration to a wrong value."""
    names = [
        name
        for section, value in defaults.get_config().items()
        for name in (section, *(f"{section}.{field}" for field in _fields(value)))
    ]
    name = rng.choice(names) + rng.choice(("",) * 9 + ("x",))
    word = f"--config.{name}={rng.choice(WRONG_VALUES + WRONG_OPTIONS)}"
    path.write_text(word, encoding="utf-8", errors="surrogatepass")
    return ascii(word[:200])


def mutate_config_file(path: Path, rng: random.Random) -> str:
    """Insert a wrong statement into a configuration file, or cut a part of it."""
    text = path.read_text()
    if rng.random() < 0.7:
        wrong = rng.choice(WRONG_STATEMENTS)
        path.write_text(text.replace("    return config", f"    {wrong}\n    return config"))
        return f"{path.name}: {wrong}"
    start = rng.randrange(len(text))
    stop = rng.randrange(start, len(text))
    path.write_text(text[:start] + text[stop:])
    return f"{path.name}: without characters {start}:{stop}"


def mutate_binary(path: Path, rng: random.Random) -> str:
    """Flip bytes, cut, extend or overwrite a binary file, mostly in its header."""
    data = bytearray(path.read_bytes())
    kind = rng.choice(("flip", "flip", "flip", "count", "cut", "extend", "zero", "ones"))
    start = rng.randrange(min(len(data), rng.choice((64, 4096, len(data)))))
    if kind == "flip":
        data[start] ^= 1 << rng.randrange(8)
    elif kind == "count":  # a length or a number of entries, as the formats store them
        data[start : start + 8] = rng.choice((2**63, 10**9, 2**32 - 1)).to_bytes(8, "little")
    elif kind == "cut":
        del data[start:]
    elif kind == "extend":
        data += bytes(rng.randrange(1, 100))
    else:
        data[start : start + 32] = (b"\0" if kind == "zero" else b"\xff") * 32
    path.write_bytes(bytes(data))
    return f"{path.name}: {kind} at byte {start}"


def mutate_template(path: Path, rng: random.Random) -> str:
    """Insert a harmful statement into a chat template, cut it, or repeat a part."""
    text = path.read_text()
    start = rng.randrange(len(text))
    if rng.random() < 0.7:
        wrong = rng.choice(WRONG_TEMPLATES)
        path.write_text(rng.choice((wrong, wrong + text, text + wrong)))
        return f"{path.name}: {wrong}"
    stop = rng.randrange(start, len(text))
    path.write_text(text[:start] + text[stop:])
    return f"{path.name}: without characters {start}:{stop}"


def _mutate_value(content: Any, rng: random.Random) -> tuple[str, str]:
    """(the JSON text with one entry replaced or removed, what was done)."""
    parent, key = rng.choice(list(entries(content)))
    if rng.random() < 0.2:
        del parent[key]
        return json.dumps(content), f"{key!r} removed"
    wrong = rng.choice(WRONG_VALUES)
    parent[key] = "@value@"
    return json.dumps(content).replace('"@value@"', wrong), f"{key!r} is {wrong[:40]}"


def _fields(section: Any) -> list[str]:
    """The dotted names of the fields and sections in a section of a configuration."""
    if not isinstance(section, ConfigDict):
        return []
    names = []
    for name, value in section.items():
        names += [name, *(f"{name}.{field}" for field in _fields(value))]
    return names


def _replace_file(path: Path, rng: random.Random) -> str:
    kind = rng.choice(("content", "content", "content", "folder", "missing", "cut", "utf-16"))
    data = path.read_bytes()
    path.unlink()
    if kind == "content":
        data = rng.choice(WRONG_FILES)
        path.write_bytes(data)
        return f"{path.name}: {data[:20]!r}"
    if kind == "folder":
        path.mkdir()
    elif kind == "cut":
        path.write_bytes(data[: rng.randrange(len(data))])
    elif kind == "utf-16":
        path.write_bytes(data.decode().encode("utf-16"))
    return f"{path.name}: {kind}"


def entries(content: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) in a JSON value, at most 4 for a list."""
    if isinstance(content, dict):
        keys = list(content)
    elif isinstance(content, list):
        keys = list(range(min(len(content), 4)))
    else:
        return
    for key in keys:
        yield content, key
        yield from entries(content[key])


def copy_folder(source: Path, target: Path) -> Path:
    """A fresh copy of a valid input."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    return target
