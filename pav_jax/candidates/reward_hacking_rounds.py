"""Reward-hacking statistics of each stage's rounds, in memory or read from a work directory."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pav_jax.candidates.reward_hacking import (
    REJECTED_REWRITES,
    RewritesByPrompt,
    RoundStatistics,
    ScoredCandidate,
    grouped_statistics,
    round_statistics,
    score_candidates,
)
from pav_jax.candidates.scoring import overall_scores, stage_weights
from pav_jax.records import Candidate, Preference
from pav_jax.storage.addresses import AnyPath, as_path
from pav_jax.storage.records import read_jsonl, read_segments

WINDOW_STEPS = 10  # GRPO steps per window: a single step has too few prompts


def evolution_statistics(round: int, pool: Sequence[ScoredCandidate]) -> RoundStatistics:
    """Compare a round of evolution with the user's own prompts (round 0 of the pool)."""
    user_prompts = [scored for scored in pool if scored.candidate.round == 0]
    first_round = [scored for scored in pool if scored.candidate.round == 1]
    rewrites = [scored for scored in pool if scored.candidate.round == round]
    return round_statistics(
        f"evolve, round {round}", rewrites, user_prompts, first_round if round > 1 else ()
    )


def preference_statistics(
    round: int,
    candidates: Sequence[ScoredCandidate],
    first_round: Sequence[ScoredCandidate] = (),
    user_prompts: Sequence[ScoredCandidate] = (),
) -> RoundStatistics:
    """Compute the statistics of the candidates that a round's booster sampled.

    Args:
      round: the number of the preference round, from 1.
      candidates: samples from the booster of the previous training stage.
      first_round: candidates of round 1; empty in round 1 itself.
      user_prompts: the user's own prompts from evolution. They differ from this round's prompts
        but are the only ones with videos of their own.
    """
    return round_statistics(f"prefer, round {round}", candidates, user_prompts, first_round)


def pair_statistics(
    round: int, preferences: Sequence[Preference], candidates: Sequence[ScoredCandidate]
) -> RoundStatistics:
    """Compare the chosen rewrites of a round's preference pairs with the rejected ones."""
    by_text = {(s.candidate.prompt, s.candidate.refined): s for s in candidates}
    pairs = [
        (by_text[p.prompt, p.chosen], by_text[p.prompt, p.rejected])
        for p in preferences
        if (p.prompt, p.chosen) in by_text and (p.prompt, p.rejected) in by_text
    ]
    chosen: RewritesByPrompt = {i: [pair[0]] for i, pair in enumerate(pairs)}
    rejected: RewritesByPrompt = {i: [pair[1]] for i, pair in enumerate(pairs)}
    return grouped_statistics(f"dpo, round {round}", chosen, rejected, REJECTED_REWRITES, rejected)


class StepWindows:
    """Compares the last WINDOW_STEPS steps of GRPO with the first WINDOW_STEPS.

    Args:
      read_step: reads the distinct candidates of a step, numbered from 1; called once per step.
    """

    def __init__(self, read_step: Callable[[int], Sequence[ScoredCandidate]]):
        self._read_step = read_step
        self._candidates: dict[int, list[ScoredCandidate]] = {}  # by step

    def ending_at(self, last_step: int) -> RoundStatistics:
        """Compute the statistics of the window that ends with `last_step`."""
        start = max(last_step - WINDOW_STEPS, 0)
        window = range(start + 1, last_step + 1)
        first_window = range(1, WINDOW_STEPS + 1)
        needed = {*first_window, *window} if start else {*window}
        self._candidates = {
            step: self._candidates[step]
            if step in self._candidates
            else list(self._read_step(step))
            for step in sorted(needed)
        }
        rewrites = [scored for step in window for scored in self._candidates[step]]
        baseline = []
        if start >= WINDOW_STEPS:  # an overlapping window would be compared with itself
            baseline = [scored for step in first_window for scored in self._candidates[step]]
        return round_statistics(
            f"grpo, steps {start + 1} to {last_step}", rewrites, first_round=baseline
        )


# ---------------------------------------------------------------------------------- work directory


def read_round_statistics(
    workdir: str | os.PathLike, config: Mapping[str, Any]
) -> list[RoundStatistics]:
    """Compute the statistics of every round in a work directory.

    Args:
      workdir: local or on an object store.
      config: the whole configuration as plain dicts; each stage's weights define its overall score.

    Returns:
      Rounds of evolution, then each preference round followed by its pairs, then windows of GRPO
      steps.

    Raises:
      BadInput: a record is corrupt.
    """
    folder = as_path(workdir)
    pool = read_segments(folder / "pool", Candidate)
    evolved = _scored(pool, config, "evolve")
    rounds = [evolution_statistics(n, evolved) for n in sorted({c.round for c in pool} - {0})]
    user_prompts = _scored([c for c in pool if c.round == 0], config, "prefer")
    first_round: list[ScoredCandidate] = []
    for n in _numbers(folder, r"round_(\d+)"):
        candidates = _scored(_read_preference_candidates(folder, n), config, "prefer")
        if candidates:
            rounds.append(preference_statistics(n, candidates, first_round, user_prompts))
        first_round = first_round or candidates
        pairs = read_pair_statistics(folder, config, n)
        if pairs is not None:
            rounds.append(pairs)
    return rounds + _read_grpo_windows(folder / "grpo" / "candidates", config)


def read_pair_statistics(
    workdir: str | os.PathLike, config: Mapping[str, Any], round: int
) -> RoundStatistics | None:
    """Compute the statistics of a round's preference pairs; None if no pair has candidates."""
    folder = as_path(workdir)
    file = folder / f"round_{round}" / "preferences.jsonl"
    if not file.exists():
        return None
    candidates = _scored(_read_preference_candidates(folder, round), config, "prefer")
    statistics = pair_statistics(round, read_jsonl(file, Preference), candidates)
    return statistics if statistics.num_rewrites else None


def _read_preference_candidates(folder: AnyPath, round: int) -> list[Candidate]:
    return read_segments(folder / f"round_{round}" / "candidates", Candidate)


def _read_grpo_windows(folder: AnyPath, config: Mapping[str, Any]) -> list[RoundStatistics]:
    """Return one window per WINDOW_STEPS steps, and one that ends with the last step."""
    steps = _numbers(folder, r"(\d+)")
    if not steps:
        return []
    windows = StepWindows(
        lambda step: _scored(read_segments(folder / f"{step:06d}", Candidate), config, "grpo")
    )
    last_steps = {*range(WINDOW_STEPS, steps[-1] + 1, WINDOW_STEPS), steps[-1]}
    return [windows.ending_at(step) for step in sorted(last_steps)]


def _scored(
    candidates: Sequence[Candidate], config: Mapping[str, Any], section: str
) -> list[ScoredCandidate]:
    weights = stage_weights(config, section)
    if not weights:  # no configuration was saved
        return score_candidates(candidates, [float("nan")] * len(candidates))
    return score_candidates(candidates, overall_scores(candidates, weights).tolist())


def _numbers(folder: AnyPath, pattern: str) -> list[int]:
    """Return the numbers in the names of a folder's entries that match `pattern`, ascending."""
    names = [path.name for path in folder.iterdir()] if folder.exists() else []
    return sorted(int(match[1]) for name in names if (match := re.fullmatch(pattern, name)))
