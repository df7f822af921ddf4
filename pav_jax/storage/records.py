"""Files of records in a work directory: single JSON Lines files and folders of immutable segments.

A set that grows (the pool, the candidates of a round) is a folder of segments
`<process>-<n>.jsonl`, because object stores cannot append and several hosts write concurrently.
Readers see the merged set without duplicates. A set that is written at once is a single file.
"""

import json
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from etils import epath

from pav_jax.errors import BadInput
from pav_jax.records import from_json, to_json
from pav_jax.redaction import redact_known
from pav_jax.storage.files import write_atomic

Record = TypeVar("Record")
SEGMENT_NAME = re.compile(r"(\d+)-(\d+)\.jsonl")


# ------------------------------------------------------------------------------------------ writing


def write_jsonl(path: str | os.PathLike, records: Iterable[Any]) -> None:
    """Write a complete file of records, one JSON object per line."""
    write_atomic(path, _encode(records))


class SegmentWriter:
    """Adds segments to a folder, one per `write`; numbering continues after existing segments."""

    def __init__(self, folder: str | os.PathLike, process: int = 0):
        """Find the number of the next segment of `process` in `folder`."""
        self.folder = epath.Path(folder)
        self.process = process
        numbers = [number for owner, number, _ in _segments(self.folder) if owner == process]
        self._next = max(numbers, default=-1) + 1

    def write(self, records: Sequence[Any]) -> None:
        """Write `records` as one segment; do nothing for an empty list."""
        if not records:
            return
        write_atomic(self.folder / f"{self.process}-{self._next:06d}.jsonl", _encode(records))
        self._next += 1


def _encode(records: Iterable[Any]) -> bytes:
    # a lone surrogate has no UTF-8 form and becomes "?", as it does in candidate keys
    text = "".join(to_json(record) + "\n" for record in records)
    return redact_known(text).encode("utf-8", "replace")


# ------------------------------------------------------------------------------------------ reading


def read_segments(folder: str | os.PathLike, cls: type[Record]) -> list[Record]:
    """Read the merged set in `folder`: sorted, each key once; empty if there is no folder.

    A truncated record at the end of a segment is skipped, so that its work is repeated.

    Raises:
      BadInput: any other record is corrupt; the message names the file and the line.
    """
    records = []
    for _, _, path in _segments(epath.Path(folder)):
        records += _read(path, cls, allow_truncated_end=True)
    return _merge(records)


def read_jsonl(path: str | os.PathLike, cls: type[Record]) -> list[Record]:
    """Read a complete file of records, in the order of the file.

    Raises:
      BadInput: the file is missing or a record is corrupt; the message names the file and the line.
    """
    file = epath.Path(path)
    if not file.exists():
        raise BadInput(f"{file}: no such file; run the stage that writes it first", source=file)
    return _read(file, cls, allow_truncated_end=False)


def _segments(folder: epath.Path) -> list[tuple[int, int, epath.Path]]:
    """Return (process, number, path) of each segment, sorted."""
    if not folder.exists():
        return []
    matches = ((SEGMENT_NAME.fullmatch(path.name), path) for path in folder.iterdir())
    return sorted((int(match[1]), int(match[2]), path) for match, path in matches if match)


def _read(path: epath.Path, cls: type[Record], allow_truncated_end: bool) -> list[Record]:
    try:
        # only "\n" ends a record: a rewrite may contain U+2028 and other line separators
        lines = path.read_bytes().decode("utf-8", "replace").split("\n")
    except OSError as error:
        raise BadInput(
            f"{path}: cannot be read ({error.strerror or error})", source=path
        ) from error
    last = max((i for i, line in enumerate(lines) if line.strip()), default=-1)
    records = []
    for i, line in enumerate(lines[: last + 1]):
        try:
            records.append(from_json(cls, line))
        except json.JSONDecodeError as error:
            if i == last and allow_truncated_end:
                break
            raise BadInput(
                f"{path}:{i + 1}: corrupt record ({error.msg}); delete or fix the line", source=path
            ) from error
        except ValueError as error:
            raise BadInput(f"{path}:{i + 1}: {error}", source=path) from error
    return records


def _merge(records: Iterable[Record]) -> list[Record]:
    """Sort, so that the write order does not matter, and keep the first record of each key."""
    unique: dict[Any, Record] = {}
    for record in sorted(records, key=_sort_key):
        unique.setdefault(getattr(record, "key", None) or record, record)
    return list(unique.values())


def _sort_key(record: Any) -> tuple:
    number = getattr(record, "round", 0)
    index = getattr(record, "index", 0)
    return record.prompt, number, index, to_json(record)
