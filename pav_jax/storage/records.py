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

from pav_jax.errors import BadInput
from pav_jax.records import from_json, to_json
from pav_jax.redaction import redact_known
from pav_jax.storage.addresses import AnyPath, as_path, is_remote, list_names, read_many
from pav_jax.storage.files import read_bounded, write_atomic

Record = TypeVar("Record")
MAX_FILE_BYTES = 2**34
SEGMENT_NAME = re.compile(r"(\d+)-(\d+)\.jsonl")


# ------------------------------------------------------------------------------------------ writing


def write_jsonl(path: str | os.PathLike, records: Iterable[Any]) -> None:
    """Write a complete file of records, one JSON object per line."""
    write_atomic(path, _encode(records))


class SegmentFolder:
    """A folder of segments, listed once: `read` gives the merged set, `write` adds to it.

    `update` lists the folder again and reads only the segments that are new.
    """

    def __init__(self, folder: str | os.PathLike, cls: type, process: int = 0):
        """List the folder.

        Args:
          cls: the dataclass of the records.
          process: whose segments `write` adds; numbering continues after existing ones.
        """
        self.folder = as_path(folder)
        self.process = process
        self._cls = cls
        self._records: dict[str, list[Any]] = {}  # segment's name -> records
        self._names: list[str] = []
        self._next = 0
        self._list()

    def _list(self) -> None:
        self._names = _segment_names(self.folder)
        numbers = [number for owner, number in map(_numbers, self._names) if owner == self.process]
        self._next = max([self._next - 1, *numbers]) + 1

    def read(self) -> list[Any]:
        """The merged set: sorted, each key once.

        A truncated record at the end of a segment is skipped, so that its work is repeated.

        Raises:
          BadInput: any other record is corrupt; the message names the file and the line.
        """
        new = [name for name in self._names if name not in self._records]
        paths = [self.folder / name for name in new]
        for name, path, content in zip(new, paths, _contents(paths), strict=True):
            self._records[name] = _decode(path, content, self._cls, allow_truncated_end=True)
        return _merge(record for name in self._names for record in self._records[name])

    def update(self) -> list[Any]:
        """The merged set with what other processes have written since."""
        self._list()
        return self.read()

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
    """Read the merged set in `folder`; empty if there is no folder. See `SegmentFolder.read`."""
    return SegmentFolder(folder, cls).read()


def read_jsonl(path: str | os.PathLike, cls: type[Record]) -> list[Record]:
    """Read a complete file of records, in the order of the file.

    Raises:
      BadInput: the file is missing or a record is corrupt; the message names the file and the line.
    """
    file = as_path(path)
    try:
        content = _contents([file])[0]
    except FileNotFoundError as error:
        raise BadInput(
            f"{file}: no such file; run the stage that writes it first", source=file
        ) from error
    return _decode(file, content, cls, allow_truncated_end=False)


def _segment_names(folder: AnyPath) -> list[str]:
    """The segments of a folder, by process and number."""
    return sorted(filter(SEGMENT_NAME.fullmatch, list_names(folder)), key=_numbers)


def _numbers(name: str) -> tuple[int, int]:
    """(process, number) of a segment."""
    process, number = name.removesuffix(".jsonl").split("-")
    return int(process), int(number)


def _contents(paths: Sequence[AnyPath]) -> list[bytes]:
    try:
        if paths and not is_remote(paths[0]):
            return [read_bounded(path, MAX_FILE_BYTES) for path in paths]
        return read_many(paths)
    except FileNotFoundError:
        raise
    except OSError as error:
        path = error.filename or paths[0]
        raise BadInput(
            f"{path}: cannot be read ({error.strerror or error})", source=path
        ) from error


def _decode(
    path: AnyPath, content: bytes, cls: type[Record], allow_truncated_end: bool
) -> list[Record]:
    # only "\n" ends a record: a rewrite may contain U+2028 and other line separators
    lines = content.decode("utf-8", "replace").split("\n")
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
