"""From the pool to examples for supervised tuning: the best rewrite of each prompt, where there is
a good one."""

import logging
from collections import Counter
from collections.abc import Sequence

import numpy as np
from etils import epath

from pav_jax.candidates.constraints import is_feasible, minimum_scores, passes_thresholds
from pav_jax.candidates.ranking import Ranking
from pav_jax.candidates.scoring import overall_scores, stage_weights
from pav_jax.records import Candidate, PromptPair
from pav_jax.storage.records import write_jsonl

log = logging.getLogger(__name__)


def select(config, pool: Sequence[Candidate], suite, workdir=None) -> list[PromptPair]:
    """At most one pair for each prompt, in the order of the prompts' names.

    The best rewrite is chosen among those without error that stay within `max_words`, keep every
    floor and pass every threshold, by the weights evolution used; its overall must beat the user's
    own prompt's by `min_gain`. Which of those is the best, `ranking` says.

    Args:
      config: the whole configuration; reads of `select`: `weights` (None: `evolve.weights`, then
        the suite's), `ranking` (see `ranking.py`), `thresholds` and `floors` (None: the suite's),
        `min_gain`, `max_words`, `pareto` (True: no weighted reward may be below the user's own
          prompt's).
      workdir: where to write `sft_pairs.jsonl`; None writes nothing.
    """
    options = config.get("select", {})
    weights = stage_weights(config, "select", suite)
    ranking = Ranking.from_config(config, "select", suite, weights)
    least = (
        minimum_scores(options.get("thresholds"), suite.thresholds),
        minimum_scores(options.get("floors"), suite.constraints),
    )
    gain, longest = options.get("min_gain", 0.0), options.get("max_words", 130)
    dimensions = sorted(weights or suite.weights) if options.get("pareto", False) else []

    prompts: dict[str, list[tuple[float, Candidate]]] = {}
    for c, value in zip(pool, overall_scores(pool, weights), strict=True):
        prompts.setdefault(c.prompt, []).append((float(value), c))
    pairs, dropped = [], Counter()
    for prompt, rows in sorted(prompts.items()):
        own = next(((v, c) for v, c in rows if c.refined == prompt), None)
        if own is None or not np.isfinite(own[0]):
            dropped["the user's prompt has no score"] += 1
            continue
        left = [(v, c) for v, c in rows if c.refined != prompt]
        for why, keeps in (
            ("no rewrite", lambda v, c: True),
            ("no rewrite has a score", lambda v, c: np.isfinite(v)),
            (f"over {longest} words", lambda v, c: len(c.refined.split()) <= longest),
            ("below a floor", lambda v, c: is_feasible(c.scores, least[1])),
            ("below a threshold", lambda v, c: passes_thresholds(c, least[0])),
            (f"gain not over {gain:g}", lambda v, c, own=own[0]: v > own + gain),
            (
                "a reward falls",
                lambda v, c, own=own[1]: all(c.scores[d] >= own.scores[d] for d in dimensions),
            ),
        ):
            left = [(v, c) for v, c in left if keeps(v, c)]
            if not left:
                dropped[why] += 1
                break
        else:
            places = ranking.places([c.scores for _, c in left], [v for v, _ in left])
            best = min(
                zip(places, (c for _, c in left), strict=True), key=lambda row: (row[0], row[1].key)
            )[1]
            pairs.append(PromptPair(prompt, best.refined))
    log.info(
        "select: %d of %d prompts have a pair%s",
        len(pairs),
        len(prompts),
        "".join(f"; {n} dropped: {why}" for why, n in sorted(dropped.items())),
    )
    if workdir is not None:
        write_jsonl(epath.Path(workdir) / "sft_pairs.jsonl", pairs)
    return pairs
