"""The weighted sum of a candidate's scores ("overall"): the only place that computes it.

Evolution, selection, preference pairs, GRPO, evaluation, the reward-hacking warnings and the report
all rank and average by this number, each with the weights of its own stage.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from pav_jax.errors import BadInput
from pav_jax.records import Candidate
from pav_jax.rewards.suite_config import CONSTRAINT_ONLY


def overall_scores(
    candidates: Sequence[Candidate], weights: Mapping[str, float]
) -> Float[np.ndarray, "N"]:
    """Compute the weighted sum of each candidate's scores, for ranking.

    Args:
      candidates: N scored candidates.
      weights: reward name -> weight; see `stage_weights`.

    Returns:
      float64 [N]; minus infinity for a candidate that cannot be selected, because it has an error
      or lacks a weighted score.
    """
    total_N = weighted_sums(candidates, weights)
    selectable_N = np.isfinite(total_N) & np.asarray([c.error is None for c in candidates], bool)
    return np.where(selectable_N, total_N, -np.inf)


def weighted_sums(
    candidates: Sequence[Candidate], weights: Mapping[str, float]
) -> Float[np.ndarray, "N"]:
    """Compute the weighted sum of each candidate's scores, even for candidates with an error.

    The terms are added in float64 in the order of `weights`, and the sum is rounded to float32, the
    precision in which rewards are computed.

    Returns:
      float64 [N]; NaN for a candidate that lacks a weighted score.
    """
    total_N = np.zeros(len(candidates))
    for name, weight in weighted_rewards(weights).items():
        column_N = np.asarray([c.scores.get(name, np.nan) for c in candidates], np.float32)
        total_N = total_N + weight * column_N.astype(np.float64)
    return total_N.astype(np.float32).astype(np.float64)


def weighted_rewards(weights: Mapping[str, float]) -> dict[str, float]:
    """Return the nonzero weights, without constraint-only rewards such as FAITH."""
    return {
        name: float(weight)
        for name, weight in weights.items()
        if weight and name not in CONSTRAINT_ONLY
    }


def stage_weights(config: Mapping[str, Any], stage: str, suite: Any = None) -> dict[str, float]:
    """Return the weights of a stage's overall score.

    A stage without weights uses those of the suite (`rewards.weights`); selection uses those of
    evolution, if it has any, before the suite's.

    Args:
      config: the whole configuration, or its saved form in `config.json`.
      stage: a section that may have `weights`: "evolve", "select", "prefer", "grpo", or "evaluate".
      suite: the `RewardSuite` that checks the stage's weights and has the default ones; None takes
        the default from `rewards.weights` of the configuration, without a check.

    Raises:
      BadInput: a weight names a score that the suite does not have.
    """
    sections = ("select", "evolve") if stage == "select" else (stage,)
    # the saved form may be of an older version, without a section or its weights
    for section in sections:
        weights = (config.get(section) or {}).get("weights")
        if weights:
            if suite is not None:
                _check_names(dict(weights), suite, f"{section}.weights")
            return dict(weights)
    if suite is not None:
        return dict(suite.weights)
    return dict((config.get("rewards") or {}).get("weights") or {})


def _check_names(weights: Mapping[str, float], suite: Any, field: str) -> None:
    unknown = sorted(name for name, weight in weights.items() if weight and name not in suite.names)
    if unknown:
        raise BadInput(
            f"{field}.{unknown[0]}: no reward has this score; choose from {', '.join(suite.names)}",
            source="configuration",
            field=f"{field}.{unknown[0]}",
        )
