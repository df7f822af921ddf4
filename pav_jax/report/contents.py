"""Reads a work directory into what the report shows. Whatever stage has not run yet is simply
absent."""

import dataclasses
import json
import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from pav_jax.candidates import preview
from pav_jax.candidates.scoring import overall_scores, stage_weights
from pav_jax.errors import BadInput
from pav_jax.records import Candidate, Measurement, Preference, PromptPair
from pav_jax.storage.records import read_jsonl, read_segments

CONTROLS = ("suffix", "shuffled", "oracle")


@dataclasses.dataclass(frozen=True)
class Contents:
    """Everything in the work directory that the report shows."""

    config: dict[str, Any]
    evaluation: dict[str, Any] | None  # the content of evaluation.json
    measurements: list[Measurement]
    evolution: list["Round"]
    curves: dict[
        str, dict[str, list[float]]
    ]  # "sft", "round_1", ... -> metric, "step" among them -> values
    preferences: list["PairStatistics"]
    sft_pairs: list[PromptPair]
    trust: dict[str, Any] | None = None  # the content of trust.json
    drafts: dict[str, Any] | None = None  # the content of drafts.json


@dataclasses.dataclass(frozen=True)
class Round:
    """One round of evolution. Means of `overall` over prompts or rewrites with a score."""

    number: int
    candidates: int
    failed: int
    mean: float
    best: float  # of each prompt's best so far


@dataclasses.dataclass(frozen=True)
class PairStatistics:
    """One round of preference pairs; words are counted by white space."""

    round: int
    candidates: int
    sampled: float  # mean overall of the sampled rewrites
    pairs: int
    prompts: int
    margin: float
    chosen_words: float
    rejected_words: float


def read_contents(workdir: str | os.PathLike) -> Contents:
    """Reads what is there.

    Raises:
      BadInput: the folder is missing or holds nothing to report, or a file in it is broken.
    """
    folder = epath.Path(workdir)
    if not folder.is_dir():
        raise BadInput(f"{workdir}: no such work directory; run a stage first")
    config = _json(folder / "config.json") or {}
    evaluation = _json(folder / "evaluation.json")
    rounds = sorted(
        int(m[1]) for p in folder.iterdir() if (m := re.fullmatch(r"round_(\d+)", p.name))
    )
    measured = folder / "evaluation" / "measurements.jsonl"
    curves = {
        name: curve
        for name in ["sft", *(f"round_{n}" for n in rounds), "grpo"]
        if (curve := _metrics(folder / name / "metrics.jsonl"))
    }
    selected = folder / "sft_pairs.jsonl"
    contents = Contents(
        config=config,
        evaluation=evaluation,
        measurements=read_jsonl(measured, Measurement) if measured.exists() else [],
        evolution=evolution(
            read_segments(folder / "pool", Candidate), stage_weights(config, "evolve")
        ),
        curves=curves,
        preferences=[
            statistics
            for n in rounds
            if (statistics := _pairs(folder / f"round_{n}", n, stage_weights(config, "prefer")))
        ],
        sft_pairs=read_jsonl(selected, PromptPair) if selected.exists() else [],
        trust=_json(folder / "trust.json"),
        drafts=_json(folder / preview.FILE),
    )
    if not any(
        (
            config,
            evaluation,
            contents.trust,
            contents.evolution,
            curves,
            contents.preferences,
            contents.sft_pairs,
        )
    ):
        raise BadInput(f"{workdir}: nothing to report here; run a stage with this --workdir first")
    return contents


def evolution(pool: Sequence[Candidate], weights: Mapping[str, float]) -> list[Round]:
    """What each round added."""
    by_round: dict[int, list[Candidate]] = defaultdict(list)
    for candidate in pool:
        by_round[candidate.round].append(candidate)
    best: dict[str, float] = {}
    rounds = []
    for number, candidates in sorted(by_round.items()):
        values = _overall(candidates, weights)
        for candidate, value in zip(candidates, values, strict=True):
            if np.isfinite(value):
                best[candidate.prompt] = max(best.get(candidate.prompt, -np.inf), value)
        rounds.append(
            Round(
                number,
                len(candidates),
                int(np.sum(~np.isfinite(values))),
                _mean(values),
                _mean(list(best.values())),
            )
        )
    return rounds


def _pairs(folder: epath.Path, number: int, weights: Mapping[str, float]) -> PairStatistics | None:
    candidates = read_segments(folder / "candidates", Candidate)
    file = folder / "preferences.jsonl"
    pairs = read_jsonl(file, Preference) if file.exists() else []
    if not candidates and not pairs:
        return None
    return PairStatistics(
        round=number,
        candidates=len(candidates),
        sampled=_mean(_overall(candidates, weights)),
        pairs=len(pairs),
        prompts=len({p.prompt for p in pairs}),
        margin=_mean([p.margin for p in pairs]),
        chosen_words=_mean([len(p.chosen.split()) for p in pairs]),
        rejected_words=_mean([len(p.rejected.split()) for p in pairs]),
    )


def _overall(candidates: Sequence[Candidate], weights: Mapping[str, float]) -> np.ndarray:
    """The weighted sums; NaN for all where the work directory holds no weights."""
    return overall_scores(candidates, weights) if weights else np.full(len(candidates), np.nan)


def _mean(values: Sequence[float]) -> float:
    known = [v for v in values if np.isfinite(v)]
    return float(np.mean(known)) if known else float("nan")


def _json(path: epath.Path) -> Any:
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise BadInput(
            f"{path}: not valid JSON ({error}); delete it and run its stage again"
        ) from error


def _metrics(path: epath.Path) -> dict[str, list[float]]:
    """The columns of a metrics.jsonl; a last line that was being written is left out."""
    columns: dict[str, list[float]] = defaultdict(list)
    if not path.exists():
        return {}
    for line in path.read_text().split("\n"):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        for name, value in row.items():
            if isinstance(value, (int, float)):
                columns[name].append(value)
    # a metric that some steps lack cannot be drawn over the steps
    return {name: values for name, values in columns.items() if len(values) == len(columns["step"])}
