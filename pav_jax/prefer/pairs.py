"""From scored candidates to (prompt, chosen, rejected), as the published method pairs them (method
section 2)."""

import dataclasses
import logging
from collections import Counter
from collections.abc import Sequence

import numpy as np

from pav_jax.candidates.constraints import is_feasible, minimum_scores, passes_thresholds
from pav_jax.candidates.ranking import Ranking
from pav_jax.candidates.scoring import overall_scores, stage_weights
from pav_jax.records import Candidate, Preference

log = logging.getLogger(__name__)

MARGIN = 1.4  # the published weights' scale (dpo/filter.py)
MAX_WORDS = 130
RANKS = 2  # a chosen candidate ranks first or second


@dataclasses.dataclass(frozen=True)
class PairReport:
    """What a set of pairs is like. Words are counted by white space; the gap is chosen minus
    rejected."""

    pairs: int
    prompts: int
    mean_margin: float
    chosen_words: float
    rejected_words: float
    word_gap: float


def make_pairs(candidates: Sequence[Candidate], suite, config) -> list[Preference]:
    """All pairs of every prompt.

    Ranked by `ranking`, the first and the second may be chosen if they pass every threshold, keep
    every floor and have at most `max_words` words; every candidate ranked below that lies lower by
    more than `margin` is a rejected one. A candidate with an error takes no part. With
    `floors_first`, candidates that keep every floor rank above all that do not, and are preferred
    to them unless these lie higher by more than `margin`: so no pair teaches to forget the user's
    words, and none to give up a clearly better video.

    What is measured against `margin`, and recorded as a pair's, depends on the ranking
    (`evolve/ranking.py`): "sum" takes the difference in overall; "pareto" the same, and the chosen
    one must dominate the rejected one, so that 0 asks for dominance alone; "average_rank" the
    difference in mean places, of which neighbours are one apart where they stand alike in every
    reward.

    Args:
      config: the whole configuration; reads of `prefer`: `weights`, `ranking`, `thresholds`,
        `floors` (None: the suite's), `floors_first`, `margin`, `max_words`, `length_match` (0: off;
          else the largest |difference| / longer
        of the word counts).
    """
    options = config.prefer
    weights = stage_weights(config, "prefer", suite)
    thresholds = minimum_scores(options.get("thresholds"), suite.thresholds)
    floors = minimum_scores(options.get("floors"), suite.constraints)
    margin, longest = options.get("margin", MARGIN), options.get("max_words", MAX_WORDS)
    match, first = (
        options.get("length_match", 0.0),
        floors if options.get("floors_first", False) else {},
    )
    ranking = Ranking.from_config(config, "prefer", suite, weights, first)

    prompts: dict[str, list[tuple[float, Candidate]]] = {}
    for c, value in zip(candidates, overall_scores(candidates, weights), strict=True):
        prompts.setdefault(c.prompt, [])
        if np.isfinite(value):
            prompts[c.prompt].append((float(value), c))
    pairs, dropped = [], Counter()
    for prompt, rows in sorted(prompts.items()):
        places = ranking.places([c.scores for _, c in rows], [v for v, _ in rows])
        ranked = sorted(
            zip(places, (c for _, c in rows), strict=True), key=lambda row: (row[0], row[1].key)
        )
        for rank, (best, chosen) in enumerate(ranked[:RANKS]):
            why = _unfit(chosen, thresholds, floors, longest)
            if why:
                dropped[f"chosen {why}"] += 1
                continue
            for place, rejected in ranked[rank + 1 :]:
                gap = ranking.gap(best, place)
                if place.falls and gap < -margin:
                    dropped["what falls below a floor is clearly better"] += 1
                elif not place.falls and not ranking.clearly(
                    chosen.scores, rejected.scores, gap, margin
                ):
                    dropped["margin too small"] += 1
                elif match and length_gap(chosen.refined, rejected.refined) > match:
                    dropped["lengths differ too much"] += 1
                elif chosen.refined != rejected.refined:
                    pairs.append(Preference(prompt, chosen.refined, rejected.refined, gap))
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
        "".join(f"; {n} left out: {why}" for why, n in sorted(dropped.items())),
    )
    return pairs


def describe(pairs: Sequence[Preference]) -> PairReport:
    """Counts and means over the pairs; means of none are 0."""

    def mean(values) -> float:
        return float(np.mean(list(values))) if pairs else 0.0

    chosen = mean(len(p.chosen.split()) for p in pairs)
    rejected = mean(len(p.rejected.split()) for p in pairs)
    return PairReport(
        len(pairs),
        len({p.prompt for p in pairs}),
        mean(p.margin for p in pairs),
        chosen,
        rejected,
        chosen - rejected,
    )


def _unfit(chosen: Candidate, thresholds, floors, longest: int) -> str | None:
    if len(chosen.refined.split()) > longest:
        return f"over {longest} words"
    if not is_feasible(chosen.scores, floors):
        return "below a floor"
    return None if passes_thresholds(chosen, thresholds) else "below a threshold"


def length_gap(a: str, b: str) -> float:
    """Relative difference of the word counts, 0 to 1."""
    m, n = len(a.split()), len(b.split())
    return abs(m - n) / max(m, n, 1)
