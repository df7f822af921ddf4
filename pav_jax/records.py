"""The records that stages exchange: small frozen dataclasses and their JSON form.

`storage.records` reads and writes files of them.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Sequence
from typing import Any, TypeVar, cast

Record = TypeVar("Record")


# ------------------------------------------------------------------------------------------ records

IF_SET = {"if_set": True}  # a field that JSON leaves out while it is None


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One rewrite, its video and the scores of the video against the user's prompt."""

    key: str  # candidate_key(...) of what the video was made from
    prompt: str  # the user's prompt
    refined: str  # the text the generator read
    round: int  # 0 is the user's prompt itself
    index: int  # position among the rewrites of this prompt and round
    parents: tuple[str, ...]  # keys of the candidates that the proposer saw
    proposer: str
    seed: int  # of the generator
    scores: dict[str, float]  # reward name -> score, NaN if it could not be computed
    video: str | None = None  # path relative to the work directory
    error: str | None = None  # why this candidate must not be selected
    image: str | None = dataclasses.field(default=None, metadata=IF_SET)  # digest of its pixels


@dataclasses.dataclass(frozen=True)
class Proposal:
    """The rewrites proposed for one prompt in one round, saved before their videos are made."""

    key: str
    prompt: str
    round: int
    refined: tuple[str, ...]
    proposers: tuple[str, ...]  # the name of the proposer of each rewrite
    parents: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class PromptPair:
    """An example for supervised fine-tuning."""

    prompt: str
    refined: str


@dataclasses.dataclass(frozen=True)
class Preference:
    """An example for preference optimisation."""

    prompt: str
    chosen: str
    rejected: str
    margin: float  # overall score of `chosen` minus that of `rejected`


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One line of `evaluation/measurements.jsonl`: a system's video of a prompt and its scores.

    Attributes:
      set: name of the prompt set.
      system: that wrote the rewrite.
      prompt: of the user.
      seed: of the generator.
      refined: the rewrite that the video was generated from.
      scores: by name; NaN where a reward has no score.
      overall: weighted sum of the scores.
      video: path relative to the work directory; None if it was not saved.
      image: digest of the image that was given with the prompt.
    """

    set: str
    system: str
    prompt: str
    seed: int
    refined: str
    scores: dict[str, float]
    overall: float
    video: str | None = None
    image: str | None = dataclasses.field(default=None, metadata=IF_SET)


@dataclasses.dataclass(frozen=True)
class Refinement:
    """A rewrite by a booster.

    Attributes:
      prompt: what was rewritten.
      refined: the rewrite, with the flags and other marks of the prompt as they were typed.
      seed: the seed the caller gave.
      model: the name of the booster's language model.
      adapter: the name of the adapter on top of it; None for none.
      original: the prompt exactly as it was typed.
      kept, missing, contradicted, added: what became of what the prompt asks for; empty where no
        guard compared them.
      faith: FAITH of the rewrite; NaN where no guard, or none that could, compared them.
      reverted: whether the prompt is unchanged because no rewrite was good enough, or none could
        be checked; false where the mode "auto" left it alone because it needs none.
      reason: why the prompt is unchanged; "" where it was rewritten.
      negative_prompt: the value of `-neg`.
      settings: flag -> value, such as {"ar": "9:16"}.
      text: the rewrite without flags and other marks, for a generator that does not read them.
      image: path of the image given with the prompt, which the rewriter does not read.
      note: why a guard took the rewrite without comparing it with the prompt; None where it did.
    """

    prompt: str
    refined: str
    seed: int
    model: str
    adapter: str | None = None
    original: str = ""
    kept: tuple[str, ...] = ()  # vocabulary: ignore
    missing: tuple[str, ...] = ()
    contradicted: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    faith: float = math.nan
    reverted: bool = False
    reason: str = ""
    negative_prompt: str = ""
    settings: dict[str, str] = dataclasses.field(default_factory=dict)
    text: str = ""
    image: str | None = dataclasses.field(default=None, metadata=IF_SET)
    note: str | None = dataclasses.field(default=None, metadata=IF_SET)

    def __post_init__(self):
        if not self.text:
            object.__setattr__(self, "text", self.refined)
        if not self.original:
            object.__setattr__(self, "original", self.prompt)


# ----------------------------------------------------------------------------------- keys and seeds


def _digest(parts: Sequence[Any], size: int) -> bytes:
    text = json.dumps(list(parts), ensure_ascii=False, separators=(",", ":"), default=int)
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=size).digest()


def candidate_key(
    prompt: str, refined: str, seed: int, fingerprint: str, image: str | None = None
) -> str:
    """Return 32 hexadecimal digits that identify a video by what it is made from.

    Args:
      image: digest of an image that it is made from as well.
    """
    parts = [prompt, refined, int(seed), fingerprint]
    return _digest(parts if image is None else [*parts, image], 16).hex()


def stable_seed(*parts: str | int) -> int:
    """Derive a seed in [0, 2**31) from `parts`; the only source of randomness of the stages."""
    return int.from_bytes(_digest(parts, 8), "big") & 0x7FFFFFFF


# --------------------------------------------------------------------------------------------- JSON


def to_json(record: Any) -> str:
    """Encode a dataclass as one line of JSON; NaN and infinity become null."""
    fields = {
        f.name: _plain(getattr(record, f.name))
        for f in dataclasses.fields(record)
        if not (f.metadata.get("if_set") and getattr(record, f.name) is None)
    }
    return json.dumps(fields, ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    """Convert containers and numpy or JAX scalars to what JSON has."""
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
    """Decode a line that `to_json` wrote; a null number becomes NaN.

    Raises:
      ValueError: not a JSON object, or its fields are not those of `cls`; the message names the
        field.
    """
    try:
        values = json.loads(line)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(values, dict):
        raise ValueError("not a JSON object")
    fields = {field.name: field for field in dataclasses.fields(cast(Any, cls))}
    if unknown := sorted(values.keys() - fields.keys()):
        raise ValueError(f"unknown field {unknown[0]!r}, a {cls.__name__} has {', '.join(fields)}")
    for name, field in fields.items():
        if name in values:
            values[name] = _typed(name, field.type, values[name])
        elif field.default is dataclasses.MISSING:
            raise ValueError(f"field {name!r} of {cls.__name__} is missing")
    _check_record(cls, values)
    return cls(**values)


def _check_record(cls: type, values: dict[str, Any]) -> None:
    """Refuse a record that no stage writes, although each of its fields has the right type."""
    if values.get("key") == "":
        raise ValueError("field 'key' must not be empty")
    for name in ("round", "index", "seed"):
        if name in values and not 0 <= values[name] < 2**63:
            raise ValueError(f"field {name!r} must be from 0 to 2**63 - 1")
    if cls is Proposal and len(values["refined"]) != len(values["proposers"]):
        raise ValueError("fields 'refined' and 'proposers' must have the same length")


def _typed(name: str, kind: Any, value: Any) -> Any:
    """Check a decoded value against a field's type and convert it."""
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
        try:
            return float(value)
        except OverflowError:
            raise ValueError(f"field {name!r} is too large for a number") from None
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"field {name!r} must be {getattr(kind, '__name__', kind)}")
    return value
