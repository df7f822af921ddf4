"""The files of results that the report and the model card read, and their fields.

The files are those that `evaluate`, `trust` and previews write; anyone may have changed them since.
"""

import dataclasses
import math
import os
from collections.abc import Mapping
from typing import Annotated, Any

from pav_jax.errors import BadInput
from pav_jax.storage.addresses import AnyPath
from pav_jax.storage.files import read_bounded
from pav_jax.storage.json_files import MAX_JSON_BYTES, parse_json, read_json
from pav_jax.typed_fields import Length, Range, read_fields

FIX = "delete it and run its stage again"

Count = Annotated[int, Range(0)]
Number = float | None  # null: undefined
Interval = tuple[float | None, float | None, float | None]  # mean, low, high
Deltas = dict[str, Interval]


def _no_deltas() -> Any:
    return dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class SystemResult:
    """A system on a prompt set, see `candidates.statistics.summary`."""

    scores: dict[str, Number]
    overall: Number
    words: Number
    win_rate: Number = None
    delta: Deltas = _no_deltas()
    delta_vs_base: Deltas = _no_deltas()
    delta_vs_sft: Deltas = _no_deltas()
    delta_vs_suffix: Deltas = _no_deltas()
    missing: Count = 0
    suffix: str | None = None
    reverted: Count = 0
    units: dict[str, Count] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class SetResult:
    """A prompt set."""

    prompts: Count
    systems: dict[str, SystemResult]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """`evaluation.json`."""

    seeds: Annotated[tuple[Count, ...], Length(1)]
    sets: dict[str, SetResult]


@dataclasses.dataclass(frozen=True)
class PromptResponse:
    """How a score reacts to the prompt."""

    true_minus_permuted: Interval
    auc: Number


@dataclasses.dataclass(frozen=True)
class Deviations:
    """Standard deviations of a score."""

    over_seeds: Number
    between_prompts: Number


@dataclasses.dataclass(frozen=True)
class Response:
    """How a score responds to one half of the corruption types."""

    correlation: Number
    detected: Number


@dataclasses.dataclass(frozen=True)
class Responses:
    """How a score responds to both halves of the corruption types."""

    tuning: Response
    validation: Response


@dataclasses.dataclass(frozen=True)
class LengthCorrelation:
    """Rank correlation of a score with the number of words."""

    prompts: Number
    rewrites: Number


@dataclasses.dataclass(frozen=True)
class Saturation:
    """Shares of scores at the lower and the upper bound."""

    observed: tuple[Number, Number]
    published: tuple[Number, Number] | None


@dataclasses.dataclass(frozen=True)
class CorruptionResult:
    """How a score responds to one corruption type."""

    correlation: Interval
    expected: bool


@dataclasses.dataclass(frozen=True)
class ScoreTrust:
    """The verdict on a score."""

    verdict: str
    reasons: tuple[str, ...]
    should_read_prompt: bool
    prompt: PromptResponse
    std: Deviations
    responses: Responses
    length_correlation: LengthCorrelation
    saturation: Saturation
    corruptions: dict[str, CorruptionResult]


@dataclasses.dataclass(frozen=True)
class Split:
    """The corruption types of both halves."""

    tuning: tuple[str, ...]
    validation: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Trust:
    """`trust.json`, see `trust.summary`."""

    num_prompts: Count
    num_videos: Count
    num_corrupted: Count
    seeds: tuple[Count, ...]
    split: Split
    rewards: dict[str, ScoreTrust]
    score_correlations: dict[str, dict[str, Number]]


@dataclasses.dataclass(frozen=True)
class Preview:
    """`preview.json`, see `candidates.preview`."""

    num_previews: Count
    num_videos: Count
    num_groups: Count
    saved: Number
    rank_correlation: Number
    best_selected: Number


@dataclasses.dataclass(frozen=True)
class PairVotes:
    """The votes on the videos of two systems, see `vote_statistics`."""

    systems: tuple[str, str]
    set: str | None  # None: all prompt sets together
    prompts: Count
    voters: Count
    wins: Count
    ties: Count
    losses: Count
    win_rate: Interval


@dataclasses.dataclass(frozen=True)
class VoterAgreement:
    """How far voters agree on the prompts that several of them voted on."""

    prompts: Count
    same: Number
    alpha: Number


@dataclasses.dataclass(frozen=True)
class Votes:
    """`votes.json`, see `vote_statistics.summary`."""

    voters: Count
    votes: Count
    left_share: Number
    agreement: VoterAgreement
    pairs: tuple[PairVotes, ...]


@dataclasses.dataclass(frozen=True)
class Weights:
    """The part of a section of `config.json` that the report uses."""

    weights: dict[str, float] | None = None


@dataclasses.dataclass(frozen=True)
class SavedConfig:
    """The part of `config.json` that the report uses."""

    rewards: Weights = Weights()
    evolve: Weights = Weights()
    prefer: Weights = Weights()
    grpo: Weights = Weights()


@dataclasses.dataclass(frozen=True)
class SystemDelta:
    """The part of a `SystemResult` that the model card shows."""

    delta: Deltas = _no_deltas()


@dataclasses.dataclass(frozen=True)
class SetDeltas:
    """The part of a `SetResult` that the model card shows."""

    prompts: Count
    systems: dict[str, SystemDelta]


@dataclasses.dataclass(frozen=True)
class EvaluationDeltas:
    """The part of `evaluation.json` that the model card shows."""

    sets: dict[str, SetDeltas]


def read_result(path: AnyPath, kind: type) -> dict[str, Any] | None:
    """The content of a file, whose fields are those of `kind`; None if there is no file.

    Raises:
      BadInput: it cannot be read, or a field is missing or of another type or range.
    """
    if not path.exists():
        return None
    content = read_json(path)
    try:
        fields = read_fields(kind, content, os.fspath(path))
    except BadInput as error:
        raise BadInput(f"{error}; or {FIX}", error.source, error.field) from error
    if isinstance(fields, Evaluation):
        _check_evaluation(fields, path)
    if isinstance(fields, Trust):
        _check_trust(fields, path)
    return content


def _check_evaluation(evaluation: Evaluation, path: AnyPath) -> None:
    """All systems of a set have the same scores, and their gains include that in overall."""
    for set_name, entry in evaluation.sets.items():
        first: Mapping[str, Any] = (
            next(iter(entry.systems.values())).scores if entry.systems else {}
        )
        for name, system in entry.systems.items():
            field = f"sets.{set_name}.systems.{name}"
            if system.scores.keys() != first.keys():
                raise _inconsistent(path, f"{field}.scores", "are not those of the first system")
            if system.delta and "overall" not in system.delta:
                raise _inconsistent(path, f"{field}.delta", "lacks overall")


def _check_trust(trust: Trust, path: AnyPath) -> None:
    """Every score has a result for each corruption type."""
    for name, entry in trust.rewards.items():
        for kind in (*trust.split.tuning, *trust.split.validation):
            if kind not in entry.corruptions:
                raise _inconsistent(path, f"rewards.{name}.corruptions", f"lacks {kind!r}")


def _inconsistent(path: AnyPath, field: str, problem: str) -> BadInput:
    return BadInput(f"{path}: {field} {problem}; {FIX}", source=path, field=field)


def read_metrics(path: AnyPath) -> list[dict[str, float]]:
    """The numbers of each line of a `metrics.jsonl`; lines that cannot be read are left out.

    Raises:
      BadInput: the file cannot be read.
    """
    if not path.exists():
        return []
    try:
        data = read_bounded(path, MAX_JSON_BYTES)
    except OSError as error:
        reason = error.strerror or error
        raise BadInput(f"{path}: cannot be read ({reason})", source=path) from error
    rows = []
    for line in data.decode("utf-8", "replace").split("\n"):
        try:
            row = parse_json(line, path)
        except BadInput:  # such as a last line that was cut
            continue
        if isinstance(row, dict):
            rows.append({name: value for name, value in row.items() if _is_number(value)})
    return rows


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < 2**63 if isinstance(value, int) else math.isfinite(value)
