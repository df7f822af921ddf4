"""Reads a work directory into what the report shows. Stages that have not run are left empty."""

import dataclasses
import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from pav_jax.candidates import preview
from pav_jax.candidates.scoring import overall_scores, stage_weights
from pav_jax.candidates.statistics import finite_mean
from pav_jax.errors import BadInput
from pav_jax.records import Candidate, Measurement, Preference, PromptPair
from pav_jax.report.result_files import (
    Evaluation,
    Preview,
    SavedConfig,
    Trust,
    Votes,
    read_metrics,
    read_result,
)
from pav_jax.storage.addresses import AnyPath, as_path
from pav_jax.storage.records import read_jsonl, read_segments

CONTROLS = ("suffix", "shuffled", "oracle")


@dataclasses.dataclass(frozen=True)
class EvolutionRound:
    """One round of evolution.

    Attributes:
      number: of the round; 0 are the user's own prompts.
      num_candidates: including failed ones.
      num_failed: candidates without an overall score.
      mean_overall: over the round's candidates.
      mean_best: over prompts, of each prompt's best candidate in this or an earlier round.
    """

    number: int
    num_candidates: int
    num_failed: int
    mean_overall: float
    mean_best: float


@dataclasses.dataclass(frozen=True)
class PreferenceRound:
    """One round of preference pairs. Words are separated by white space; means may be NaN.

    Attributes:
      number: of the round, from 1.
      num_candidates: sampled rewrites.
      mean_overall: over the sampled rewrites.
      num_pairs: preference pairs.
      num_prompts: prompts that have a pair.
      mean_margin: overall score of the chosen minus that of the rejected rewrite, over pairs.
      chosen_words: mean number of words of the chosen rewrites.
      rejected_words: mean number of words of the rejected rewrites.
    """

    number: int
    num_candidates: int
    mean_overall: float
    num_pairs: int
    num_prompts: int
    mean_margin: float
    chosen_words: float
    rejected_words: float


@dataclasses.dataclass(frozen=True)
class Contents:
    """Everything in the work directory that the report shows.

    Attributes:
      config: the content of `config.json`.
      evaluation: the content of `evaluation.json`; None without it.
      measurements: videos of the evaluation.
      evolution: its rounds.
      curves: stage ("sft", "round_1", "grpo") -> metric ("step", "loss", ...) -> values.
      preferences: rounds of preference pairs.
      sft_pairs: selected rewrites.
      trust: the content of `trust.json`; None without it.
      preview: the content of the preview's report; None without it.
      votes: the content of `votes.json`; None without it.
    """

    config: dict[str, Any]
    evaluation: dict[str, Any] | None
    measurements: list[Measurement]
    evolution: list[EvolutionRound]
    curves: dict[str, dict[str, list[float]]]
    preferences: list[PreferenceRound]
    sft_pairs: list[PromptPair]
    trust: dict[str, Any] | None = None
    preview: dict[str, Any] | None = None
    votes: dict[str, Any] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to report."""
        return not any(
            (
                self.config,
                self.evaluation,
                self.trust,
                self.votes,
                self.evolution,
                self.curves,
                self.preferences,
                self.sft_pairs,
            )
        )


def read_contents(workdir: str | os.PathLike) -> Contents:
    """Reads a work directory, local or on an object store.

    Raises:
      BadInput: the folder is missing or has nothing to report, or a file in it is corrupt.
    """
    folder = as_path(workdir)
    if not folder.is_dir():
        raise BadInput(f"{workdir}: no such work directory; run a stage first", source=workdir)
    config = read_result(folder / "config.json", SavedConfig) or {}
    round_numbers = sorted(
        int(match[1])
        for path in folder.iterdir()
        if (match := re.fullmatch(r"round_(\d+)", path.name))
    )
    measurements = folder / "evaluation" / "measurements.jsonl"
    sft_pairs = folder / "sft_pairs.jsonl"
    pool = read_segments(folder / "pool", Candidate)
    contents = Contents(
        config=config,
        evaluation=read_result(folder / "evaluation.json", Evaluation),
        measurements=read_jsonl(measurements, Measurement) if measurements.exists() else [],
        evolution=evolution_rounds(pool, stage_weights(config, "evolve")),
        curves=_read_curves(folder, ["sft", *(f"round_{n}" for n in round_numbers), "grpo"]),
        preferences=_read_preference_rounds(folder, round_numbers, stage_weights(config, "prefer")),
        sft_pairs=read_jsonl(sft_pairs, PromptPair) if sft_pairs.exists() else [],
        trust=read_result(folder / "trust.json", Trust),
        preview=read_result(folder / preview.FILE, Preview),
        votes=read_result(folder / "votes.json", Votes),
    )
    if contents.is_empty:
        raise BadInput(
            f"{workdir}: nothing to report; run a stage with this --workdir first", source=workdir
        )
    return contents


def evolution_rounds(
    pool: Sequence[Candidate], weights: Mapping[str, float]
) -> list[EvolutionRound]:
    """Statistics of each round in a pool.

    Args:
      pool: candidates of all rounds.
      weights: of the overall score.
    """
    by_round: dict[int, list[Candidate]] = defaultdict(list)
    for candidate in pool:
        by_round[candidate.round].append(candidate)
    best: dict[str, float] = {}  # by prompt
    rounds = []
    for number, candidates in sorted(by_round.items()):
        overall_N = _overall(candidates, weights)
        for candidate, overall in zip(candidates, overall_N, strict=True):
            if np.isfinite(overall):
                best[candidate.prompt] = max(best.get(candidate.prompt, -np.inf), overall)
        rounds.append(
            EvolutionRound(
                number=number,
                num_candidates=len(candidates),
                num_failed=int(np.sum(~np.isfinite(overall_N))),
                mean_overall=finite_mean(overall_N),
                mean_best=finite_mean(best.values()),
            )
        )
    return rounds


def _read_preference_rounds(
    folder: AnyPath, numbers: Sequence[int], weights: Mapping[str, float]
) -> list[PreferenceRound]:
    """Rounds that have candidates or pairs."""
    rounds = []
    for number in numbers:
        round_folder = folder / f"round_{number}"
        candidates = read_segments(round_folder / "candidates", Candidate)
        file = round_folder / "preferences.jsonl"
        pairs = read_jsonl(file, Preference) if file.exists() else []
        if candidates or pairs:
            rounds.append(
                PreferenceRound(
                    number=number,
                    num_candidates=len(candidates),
                    mean_overall=finite_mean(_overall(candidates, weights)),
                    num_pairs=len(pairs),
                    num_prompts=len({p.prompt for p in pairs}),
                    mean_margin=finite_mean(p.margin for p in pairs),
                    chosen_words=finite_mean(len(p.chosen.split()) for p in pairs),
                    rejected_words=finite_mean(len(p.rejected.split()) for p in pairs),
                )
            )
    return rounds


def _overall(
    candidates: Sequence[Candidate], weights: Mapping[str, float]
) -> Float[np.ndarray, "N"]:
    """Weighted sums; all NaN if the work directory has no weights."""
    return overall_scores(candidates, weights) if weights else np.full(len(candidates), np.nan)


def _read_curves(folder: AnyPath, stages: Sequence[str]) -> dict[str, dict[str, list[float]]]:
    curves = {stage: _read_metrics(folder / stage / "metrics.jsonl") for stage in stages}
    return {stage: curve for stage, curve in curves.items() if curve}


def _read_metrics(path: AnyPath) -> dict[str, list[float]]:
    """Columns of a metrics.jsonl."""
    columns: dict[str, list[float]] = defaultdict(list)
    for row in read_metrics(path):
        for name, value in row.items():
            columns[name].append(value)
    # a metric that some steps lack cannot be plotted over the steps
    return {name: values for name, values in columns.items() if len(values) == len(columns["step"])}
