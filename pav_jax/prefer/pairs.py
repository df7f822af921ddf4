"""Preference pairs: from a prompt's scored candidates to (prompt, chosen, rejected).

Source: Prompt-A-Video (arXiv 2412.15156), section 3, and its code (dpo/filter.py).
"""

import dataclasses
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from pav_jax.candidates.constraints import is_feasible, minimum_scores, passes_thresholds
from pav_jax.candidates.ranking import Ranking, RankKey, check_method
from pav_jax.candidates.scoring import overall_scores, stage_weights
from pav_jax.records import Candidate, Preference

log = logging.getLogger(__name__)

MAX_CHOSEN_RANK = 2  # a chosen candidate ranks first or second

ScoredRow = tuple[float, Candidate]  # (overall, candidate)
RankedRow = tuple[RankKey, Candidate]


@dataclasses.dataclass(frozen=True)
class PairReport:
    """Counts and means over a set of pairs. Words are separated by white space.

    Attributes:
      pairs: number of pairs.
      prompts: number of prompts with a pair.
      mean_margin: mean margin of the pairs.
      chosen_words, rejected_words: mean length.
      word_gap: mean length of the chosen minus that of the rejected.
    """

    pairs: int
    prompts: int
    mean_margin: float
    chosen_words: float
    rejected_words: float
    word_gap: float


def make_pairs(candidates: Sequence[Candidate], suite: Any, config: Any) -> list[Preference]:
    """Make all preference pairs of every prompt.

    The candidates of a prompt that have no error are ranked by `ranking`. Each of the top two is
    chosen if it passes every threshold, is feasible and has at most `max_words` words. It is paired
    with every candidate that ranks below it by more than `margin`.

    With `feasible_first`, feasible candidates rank above infeasible ones and are preferred to them,
    unless the infeasible one is better by more than `margin`. So no pair trains the model to drop
    the user's words or to reject a clearly better video.

    The margin, which is recorded with the pair, depends on the ranking (`candidates/ranking.py`):
    for "sum" it is the difference in overall; for "pareto" too, but the chosen one must also
    dominate the rejected one; for "average_rank" it is the difference in mean ranks, which is 1 for
    neighbours if all rewards agree on the order.

    Args:
      config: the whole configuration; reads `prefer`, and the weights of `rewards`.
    """
    rule = _PairRule(config, suite)
    prompts: dict[str, list[ScoredRow]] = {}
    values = overall_scores(candidates, stage_weights(config, "prefer", suite))
    for candidate, value in zip(candidates, values, strict=True):
        rows = prompts.setdefault(candidate.prompt, [])
        if np.isfinite(value):
            rows.append((float(value), candidate))
    dropped: Counter[str] = Counter()
    pairs = [
        pair for _, rows in sorted(prompts.items()) for pair in rule.pairs_of_prompt(rows, dropped)
    ]
    report = describe(pairs)
    log.info(
        "pairs: %d of %d prompts (%d prompts have one), mean margin %.3f, words %.1f chosen, %.1f"
        " rejected, gap %+.1f%s",
        report.pairs,
        len(prompts),
        report.prompts,
        report.mean_margin,
        report.chosen_words,
        report.rejected_words,
        report.word_gap,
        "".join(f"; {count} left out: {reason}" for reason, count in sorted(dropped.items())),
    )
    return pairs


class _PairRule:
    """Applies `config.prefer` to the candidates of a prompt."""

    def __init__(self, config: Any, suite: Any):
        options = config.prefer
        check_method(options.ranking, "prefer.ranking")
        self.thresholds = minimum_scores(options.thresholds, suite.thresholds)
        self.constraints = minimum_scores(options.constraints, suite.constraints)
        self.ranking = Ranking(
            options.ranking,
            stage_weights(config, "prefer", suite),
            self.constraints if options.feasible_first else {},
        )
        self.margin = options.margin
        self.max_words = options.max_words
        self.max_length_difference = options.max_length_difference

    def pairs_of_prompt(
        self, rows: Sequence[ScoredRow], dropped: Counter[str]
    ) -> Iterable[Preference]:
        """Yield the pairs of one prompt; count the reasons for missing pairs in `dropped`."""
        keys = self.ranking.keys([c.scores for _, c in rows], [value for value, _ in rows])
        candidates = [c for _, c in rows]
        ranked = sorted(zip(keys, candidates, strict=True), key=lambda row: (row[0], row[1].key))
        for rank, (key, chosen) in enumerate(ranked[:MAX_CHOSEN_RANK]):
            problem = self._problem(chosen)
            if problem:
                dropped[f"chosen {problem}"] += 1
                continue
            for rejected_row in ranked[rank + 1 :]:
                rejected = rejected_row[1]
                reason = self._reason_to_drop((key, chosen), rejected_row)
                if reason:
                    dropped[reason] += 1
                elif chosen.refined != rejected.refined:
                    gap = self.ranking.gap(key, rejected_row[0])
                    yield Preference(chosen.prompt, chosen.refined, rejected.refined, gap)

    def _problem(self, chosen: Candidate) -> str | None:
        """Return why a candidate cannot be chosen; None if it can."""
        if len(chosen.refined.split()) > self.max_words:
            return f"over {self.max_words} words"
        if not is_feasible(chosen.scores, self.constraints):
            return "infeasible"
        if not passes_thresholds(chosen, self.thresholds):
            return "below a threshold"
        return None

    def _reason_to_drop(self, chosen_row: RankedRow, rejected_row: RankedRow) -> str | None:
        """Return why two ranked candidates do not form a pair; None if they do."""
        chosen_key, chosen = chosen_row
        rejected_key, rejected = rejected_row
        gap = self.ranking.gap(chosen_key, rejected_key)
        if rejected_key.infeasible:
            if gap < -self.margin:
                return "the infeasible rewrite is clearly better"
        elif not self.ranking.is_clearly_better(chosen.scores, rejected.scores, gap, self.margin):
            return "margin too small"
        limit = self.max_length_difference
        if limit is not None and length_difference(chosen.refined, rejected.refined) > limit:
            return "lengths differ too much"
        return None


def describe(pairs: Sequence[Preference]) -> PairReport:
    """Return counts and means over the pairs; the means are 0 if there are no pairs."""

    def mean(values: Iterable[float]) -> float:
        return float(np.mean(list(values))) if pairs else 0.0

    chosen = mean(len(pair.chosen.split()) for pair in pairs)
    rejected = mean(len(pair.rejected.split()) for pair in pairs)
    return PairReport(
        pairs=len(pairs),
        prompts=len({pair.prompt for pair in pairs}),
        mean_margin=mean(pair.margin for pair in pairs),
        chosen_words=chosen,
        rejected_words=rejected,
        word_gap=chosen - rejected,
    )


def length_difference(a: str, b: str) -> float:
    """Return the relative difference of two word counts, 0 to 1."""
    count_a = len(a.split())
    count_b = len(b.split())
    return abs(count_a - count_b) / max(count_a, count_b, 1)
