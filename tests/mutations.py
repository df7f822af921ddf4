"""Random damage to files, from a seeded generator: what the tests of bad inputs apply.

A mutation changes one file in place and returns a few words on what it did.
"""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

Mutation = Callable[[Path, random.Random], str]

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


def mutate_json(path: Path, rng: random.Random) -> str:
    """Replace, remove or rename one value of a JSON file, or replace the whole file."""
    if rng.random() < 0.2:
        return _replace_file(path, rng)
    content = json.loads(path.read_text())
    parent, key = rng.choice(list(_entries(content)))
    if rng.random() < 0.2:
        del parent[key]
        path.write_text(json.dumps(content))
        return f"{path.name}: {key!r} removed"
    wrong = rng.choice(WRONG_VALUES)
    parent[key] = "@value@"
    path.write_text(json.dumps(content).replace('"@value@"', wrong))
    return f"{path.name}: {key!r} is {wrong[:40]}"


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


def _entries(content: Any) -> Any:
    """Every (container, key) in a JSON value, at most 4 for a list."""
    if isinstance(content, dict):
        keys = list(content)
    elif isinstance(content, list):
        keys = list(range(min(len(content), 4)))
    else:
        return
    for key in keys:
        yield content, key
        yield from _entries(content[key])


def copy_folder(source: Path, target: Path) -> Path:
    """A fresh copy of a valid input."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    return target
