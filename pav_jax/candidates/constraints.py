"""Which candidates may be chosen: selection thresholds and constraints, both minima of scores.

A selected candidate must exceed every selection threshold and meet every constraint. A ranking can
also put feasible candidates before infeasible ones (`ranking.py`).
"""

from collections.abc import Mapping

import numpy as np

from pav_jax.errors import BadInput
from pav_jax.records import Candidate
from pav_jax.rewards.suite import HELD_OUT


def minimum_scores(
    stage_minima: Mapping[str, float | None] | None, suite_minima: Mapping[str, float] | None
) -> dict[str, float]:
    """Return a stage's thresholds or constraints: reward name -> minimum.

    Args:
      stage_minima: from the stage's own section; None takes the suite's. A reward with the value
        None has no minimum.
      suite_minima: from the section `rewards`.

    Raises:
      BadInput: a held-out score has a minimum.
    """
    minima = suite_minima if stage_minima is None else stage_minima
    limits = {name: float(value) for name, value in (minima or {}).items() if value is not None}
    held_out = sorted(name for name in limits if name.startswith(HELD_OUT))
    if held_out:
        raise BadInput(
            f"{held_out[0]}: a held-out score is never used for selection, so it cannot"
            " be a threshold or constraint; remove it, or move its reward to rewards.entries",
            source="configuration",
            field=held_out[0],
        )
    return limits


def passes_thresholds(candidate: Candidate, thresholds: Mapping[str, float]) -> bool:
    """Whether every score is above its threshold; False if a score is missing."""
    return all(candidate.scores.get(name, np.nan) > value for name, value in thresholds.items())


def is_feasible(scores: Mapping[str, float], constraints: Mapping[str, float]) -> bool:
    """Whether every score meets its constraint; False if a score is missing."""
    return all(scores.get(name, np.nan) >= value for name, value in constraints.items())
