"""What flows between stages: small frozen dataclasses, one JSON object per line.

A set that grows (the pool, the candidates of a round) is a folder of immutable segments
`<process>-<n>.jsonl`, because object stores cannot append and many hosts write at once; readers see
the merged set without duplicates. A set that is finished in one go is a single file. Either appears
whole or not at all.
"""

import dataclasses
import errno
import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from etils import epath

from pav_jax.errors import BadInput

Record = TypeVar("Record")
Path = str | os.PathLike


# ------------------------------------------------------------------------------------------ records


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One rewrite with the video made from it, scored against the user's prompt."""

    key: str  # candidate_key(...) of what made the video
    prompt: str  # the user's words
    refined: str  # what the generator was given
    round: int  # 0 is the user's own prompt
    index: int  # place among the rewrites of this prompt and round
    parents: tuple[str, ...]  # keys of the candidates the proposer was shown
    proposer: str
    seed: int  # the generator's
    scores: dict[str, float]  # reward name -> value, NaN where there is none
    video: str | None = None  # relative to the work directory
    error: str | None = None  # why this candidate may never be selected


@dataclasses.dataclass(frozen=True)
class Proposal:
    """The rewrites proposed for one prompt in one round, written down before any video is made from
    them."""

    key: str
    prompt: str
    round: int
    refined: tuple[str, ...]
    proposers: tuple[str, ...]  # one name per rewrite
    parents: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class PromptPair:
    """An example for supervised tuning."""

    prompt: str
    refined: str


@dataclasses.dataclass(frozen=True)
class Preference:
    """An example for preference tuning; `margin` is the difference of their overall scores."""

    prompt: str
    chosen: str
    rejected: str
    margin: float


@dataclasses.dataclass(frozen=True)
class Refinement:
    """What a booster answers."""

    prompt: str
    refined: str
    seed: int
    model: str


# ----------------------------------------------------------------------------------- keys and seeds


def _digest(parts: Sequence[Any], size: int) -> bytes:
    text = json.dumps(list(parts), ensure_ascii=False, separators=(",", ":"), default=int)
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=size).digest()


def candidate_key(prompt: str, refined: str, seed: int, fingerprint: str) -> str:
    """Names a video by what made it: 32 hexadecimal digits."""
    return _digest([prompt, refined, int(seed), fingerprint], 16).hex()


def stable_seed(*parts: str | int) -> int:
    """A seed in [0, 2**31) that depends on `parts` alone; the only source of randomness of the
    stages."""
    return int.from_bytes(_digest(parts, 8), "big") & 0x7FFFFFFF


# --------------------------------------------------------------------------------------------- JSON


def to_json(record: Any) -> str:
    """One line of JSON whose keys are the field names; a number that is not finite becomes null."""
    fields = {f.name: _plain(getattr(record, f.name)) for f in dataclasses.fields(record)}
    return json.dumps(fields, ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, (str, bool, int)):
        return value
    number = value.item() if hasattr(value, "item") else value  # numpy and jax scalars
    if isinstance(number, float):
        return number if math.isfinite(number) else None
    return number


def from_json(cls: type[Record], line: str) -> Record:
    """Reads what `to_json` wrote; a null score is NaN.

    Raises:
      ValueError: not a JSON object, or its fields are not those of `cls`. The message names the
        field.
    """
    fields = json.loads(line)
    if not isinstance(fields, dict):
        raise ValueError("not a JSON object")
    known = {f.name: f for f in dataclasses.fields(cls)}
    if unknown := sorted(fields.keys() - known.keys()):
        raise ValueError(f"unknown field {unknown[0]!r}, a {cls.__name__} has {', '.join(known)}")
    for name, field in known.items():
        if name not in fields:
            if field.default is dataclasses.MISSING:
                raise ValueError(f"field {name!r} of {cls.__name__} is missing")
            continue
        fields[name] = _typed(name, field.type, fields[name])
    return cls(**fields)


def _typed(name: str, kind: Any, value: Any) -> Any:
    if kind == dict[str, float]:
        if not isinstance(value, dict):
            raise ValueError(f"field {name!r} must be an object of numbers")
        return {k: _typed(f"{name}.{k}", float, v) for k, v in value.items()}
    if kind == tuple[str, ...]:
        if not isinstance(value, list):
            raise ValueError(f"field {name!r} must be a list of strings")
        return tuple(_typed(name, str, v) for v in value)
    if kind is float:
        value = math.nan if value is None else value
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"field {name!r} must be a number")
        return float(value)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"field {name!r} must be {getattr(kind, '__name__', kind)}")
    return value


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


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file that appears whole or not at all: temporary name, then rename; one PUT on an
    object store.

    Raises:
      BadInput: the disk is full or the place cannot be written. No partial file is left.
    """
    path = epath.Path(path)
    remote = "://" in os.fspath(path)  # an object store shows a new object only when it is complete
    part = path if remote else path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.write(data)
            if not remote:
                file.flush()
                os.fsync(file.fileno())  # a full disk may be noticed only here
        if not remote:
            part.replace(path)
    except OSError as error:
        if not remote:
            part.unlink(missing_ok=True)
        reason = (
            "no space left on device"
            if error.errno in (errno.ENOSPC, errno.EDQUOT)
            else error.strerror or error
        )
        raise BadInput(
            f"{path}: could not be written ({reason}); nothing finished is lost, make room and run"
            " the same command again"
        ) from error


def _lines(records: Iterable[Any]) -> bytes:
    # a lone surrogate has no UTF-8 form; it becomes "?", as it does in the keys
    return "".join(to_json(record) + "\n" for record in records).encode("utf-8", "replace")


def write_jsonl(path: Path, records: Iterable[Any]) -> None:
    """Writes a single finished file of records."""
    write_whole(path, _lines(records))


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
        write_whole(self.folder / f"{self.process}-{self._next:06d}.jsonl", _lines(records))
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
