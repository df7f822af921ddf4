"""Selection: the best rewrite of each prompt in the pool becomes an SFT pair."""

import logging
import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from pav_jax.candidates.constraints import is_feasible, minimum_scores, passes_thresholds
from pav_jax.candidates.ranking import Ranking, check_method
from pav_jax.candidates.scoring import overall_scores, stage_weights
from pav_jax.records import Candidate, PromptPair
from pav_jax.storage.addresses import as_path
from pav_jax.storage.records import write_jsonl

log = logging.getLogger(__name__)

ScoredRow = tuple[float, Candidate]  # (overall, candidate)


def select(
    config: Any,
    pool: Sequence[Candidate],
    suite: Any,
    workdir: str | os.PathLike | None = None,
) -> list[PromptPair]:
    """Select at most one pair per prompt, in alphabetical order of the prompts.

    A rewrite is eligible if it has no error, at most `max_words` words, is feasible, passes every
    threshold, and its overall exceeds that of the user's own prompt by more than `min_gain`. The
    eligible rewrite that ranks first by `ranking` is selected.

    Args:
      config: the whole configuration; reads `select`, and the weights of `evolve` and `rewards`.
      workdir: folder for `sft_pairs.jsonl`; None writes no file.
    """
    rule = _SelectionRule(config, suite)
    prompts: dict[str, list[ScoredRow]] = {}
    values = overall_scores(pool, stage_weights(config, "select", suite))
    for candidate, value in zip(pool, values, strict=True):
        prompts.setdefault(candidate.prompt, []).append((float(value), candidate))
    pairs: list[PromptPair] = []
    dropped: Counter[str] = Counter()
    for prompt, rows in sorted(prompts.items()):
        best, reason = rule.best(prompt, rows)
        if best is None:
            dropped[reason] += 1
        else:
            pairs.append(PromptPair(prompt, best.refined))
    log.info(
        "select: %d of %d prompts have a pair%s",
        len(pairs),
        len(prompts),
        "".join(f"; {count} dropped: {reason}" for reason, count in sorted(dropped.items())),
    )
    if workdir is not None:
        write_jsonl(as_path(workdir) / "sft_pairs.jsonl", pairs)
    return pairs


class _SelectionRule:
    """Applies `config.select` to the candidates of a prompt."""

    def __init__(self, config: Any, suite: Any):
        options = config.select
        check_method(options.ranking, "select.ranking")
        self.ranking = Ranking(options.ranking, stage_weights(config, "select", suite))
        self.thresholds = minimum_scores(options.thresholds, suite.thresholds)
        self.constraints = minimum_scores(options.constraints, suite.constraints)
        self.min_gain = options.min_gain
        self.max_words = options.max_words

    def best(self, prompt: str, rows: Sequence[ScoredRow]) -> tuple[Candidate | None, str]:
        """Return (the best rewrite, ""), or (None, reason) if none is eligible."""
        user_overall = next((value for value, c in rows if c.refined == prompt), -np.inf)
        if not np.isfinite(user_overall):
            return None, "the user's prompt has no score"
        remaining = [(value, c) for value, c in rows if c.refined != prompt]
        if not remaining:
            return None, "no rewrite"
        filters = (
            ("no rewrite has a score", lambda value, c: np.isfinite(value)),
            (f"over {self.max_words} words", lambda value, c: self._is_short(c)),
            ("infeasible", lambda value, c: is_feasible(c.scores, self.constraints)),
            ("below a threshold", lambda value, c: passes_thresholds(c, self.thresholds)),
            (
                f"gain not over {self.min_gain:g}",
                lambda value, c: value > user_overall + self.min_gain,
            ),
        )
        for reason, accepts in filters:
            remaining = [(value, c) for value, c in remaining if accepts(value, c)]
            if not remaining:
                return None, reason
        keys = self.ranking.keys([c.scores for _, c in remaining], [v for v, _ in remaining])
        candidates = [c for _, c in remaining]
        order = sorted(zip(keys, candidates, strict=True), key=lambda row: (row[0], row[1].key))
        return order[0][1], ""

    def _is_short(self, candidate: Candidate) -> bool:
        return len(candidate.refined.split()) <= self.max_words
