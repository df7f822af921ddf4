"""What flows between stages: small frozen dataclasses, one JSON object per line.

A set that grows (the pool, the candidates of a round) is a folder of immutable segments
`<process>-<n>.jsonl`, because object stores cannot append and many hosts write at once; readers see
the merged set without duplicates. A set that is finished in one go is a single file. Either appears
whole or not at all.
"""

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Sequence
from typing import Any, TypeVar

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
