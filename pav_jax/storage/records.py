"""Files of records in a work directory: single JSON Lines files and folders of immutable segments."""

import json
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from etils import epath

from pav_jax.errors import BadInput
from pav_jax.records import from_json, to_json
from pav_jax.storage.files import write_atomic

Record = TypeVar("Record")
Path = str | os.PathLike


def _order(record: Any) -> tuple:
    return (
        record.prompt,
        getattr(record, "round", 0),
        getattr(record, "index", 0),
        to_json(record),
    )


def _merge(records: Iterable[Record]) -> list[Record]:
    """Sorted, so that the order of writing does not matter; of two records with one key the first
    is kept."""
    unique: dict[Any, Record] = {}
    for record in sorted(records, key=_order):
        unique.setdefault(getattr(record, "key", None) or record, record)
    return list(unique.values())


# ------------------------------------------------------------------------------------------ writing


def _lines(records: Iterable[Any]) -> bytes:
    # a lone surrogate has no UTF-8 form; it becomes "?", as it does in the keys
    return "".join(to_json(record) + "\n" for record in records).encode("utf-8", "replace")


def write_jsonl(path: Path, records: Iterable[Any]) -> None:
    """Writes a single finished file of records."""
    write_atomic(path, _lines(records))


class SegmentWriter:
    """Adds segments `<process>-<n>.jsonl` to `folder`, one for each `write`, numbered on from those
    already there."""

    def __init__(self, folder: Path, process: int = 0):
        self.folder = epath.Path(folder)
        self.process = process
        numbers = [n for p, n, _ in _segments(self.folder) if p == process]
        self._next = max(numbers, default=-1) + 1

    def write(self, records: Sequence[Any]) -> None:
        """Writes `records` as one segment; nothing for an empty list."""
        if not records:
            return
        write_atomic(self.folder / f"{self.process}-{self._next:06d}.jsonl", _lines(records))
        self._next += 1


# ------------------------------------------------------------------------------------------ reading


def _segments(folder: epath.Path) -> list[tuple[int, int, epath.Path]]:
    if not folder.exists():
        return []
    named = ((re.fullmatch(r"(\d+)-(\d+)\.jsonl", p.name), p) for p in folder.iterdir())
    return sorted((int(m[1]), int(m[2]), p) for m, p in named if m)


def _read(path: epath.Path, cls: type[Record], last_may_be_cut: bool) -> list[Record]:
    try:
        # only "\n" ends a record: a rewrite may hold U+2028 and other line separators
        lines = path.read_bytes().decode("utf-8", "replace").split("\n")
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror or error})") from error
    last = max((i for i, line in enumerate(lines) if line.strip()), default=-1)
    records = []
    for i, line in enumerate(lines[: last + 1]):
        try:
            records.append(from_json(cls, line))
        except json.JSONDecodeError as error:
            if i == last and last_may_be_cut:
                break
            raise BadInput(
                f"{path}:{i + 1}: broken record ({error.msg}); delete or mend the line"
            ) from error
        except ValueError as error:
            raise BadInput(f"{path}:{i + 1}: {error}") from error
    return records


def read_segments(folder: Path, cls: type[Record]) -> list[Record]:
    """The merged set in `folder`, sorted, each key once; empty where there is no folder.

    A record cut in half at the end of a segment is left out, so that its work is done again.

    Raises:
      BadInput: a record is broken anywhere else; names the file and the line number.
    """
    records = []
    for _, _, path in _segments(epath.Path(folder)):
        records += _read(path, cls, last_may_be_cut=True)
    return _merge(records)


def read_jsonl(path: Path, cls: type[Record]) -> list[Record]:
    """Reads a single finished file in its own order.

    Raises:
      BadInput: the file is missing, or a record is broken; names the file and the line number.
    """
    path = epath.Path(path)
    if not path.exists():
        raise BadInput(f"{path}: no such file; run the stage that writes it first")
    return _read(path, cls, last_may_be_cut=False)
