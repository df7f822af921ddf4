"""Ranking of a prompt's candidates: by weighted sum, or without trading rewards off.

- sum: by overall, the published rule. A gain in one reward can compensate a loss in another.
- pareto: by fronts of non-dominated sorting (Deb et al. 2002, NSGA-II, section III-A). A candidate
  dominates another if no reward is lower and one is higher. The first front holds the candidates
  that none dominates, the second those dominated only by the first front, and so on. Within a front
  the weighted sum decides, not the crowding distance: crowding keeps a population diverse and would
  put the most one-sided candidates first, but here one good candidate is needed.
- average_rank: by the weighted mean of a candidate's ranks in each reward; 1 is the best, and ties
  share their mean rank. Ranks have no units, so do not use weights that only convert units.

Fronts and ranks do not change when a reward is rescaled by an increasing function. Under all three
methods a candidate never ranks above one that dominates it. With constraints, feasible candidates
rank above infeasible ones: constrained domination (Deb et al. 2002, section VI).

Shapes: N candidates of one prompt, D rewards that have a weight.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from pav_jax.candidates.constraints import is_feasible
from pav_jax.candidates.options import RANKINGS
from pav_jax.candidates.scoring import weighted_rewards
from pav_jax.errors import BadInput


class RankKey(NamedTuple):
    """The sort key of a candidate within its prompt; the smallest is the best.

    Attributes:
      infeasible: whether it violates a constraint.
      rank_value: see `rank_values`.
      loss: minus overall; breaks ties.
    """

    infeasible: bool
    rank_value: float
    loss: float


@dataclasses.dataclass(frozen=True)
class Ranking:
    """Ranks the candidates of a prompt.

    Attributes:
      method: one of `options.RANKINGS`.
      weights: reward name -> weight.
      constraints: reward name -> minimum; feasible candidates come first.

    Raises:
      BadInput: the method is unknown.
    """

    method: str
    weights: Mapping[str, float]
    constraints: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        check_method(self.method, "ranking")
        # sorted, because the rounding of the sum in `average_ranks` depends on the order
        ordered = dict(sorted(weighted_rewards(self.weights).items()))
        object.__setattr__(self, "weights", ordered)

    def keys(
        self, scores: Sequence[Mapping[str, float]], overall: Sequence[float]
    ) -> list[RankKey]:
        """Return the sort key of each of one prompt's candidates.

        Args:
          scores: reward name -> value, for each candidate.
          overall: finite weighted sum of each candidate. The method "sum" compares these values
            and does not compute them again.
        """
        infeasible_N = np.asarray([not is_feasible(row, self.constraints) for row in scores], bool)
        value_N = -np.asarray(overall, np.float64)
        if self.method != "sum":
            weights_D = np.asarray(list(self.weights.values()))
            value_N = rank_values(self._table(scores), self.method, weights_D, infeasible_N)
        return [
            RankKey(bool(infeasible), float(value), -float(total))
            for infeasible, value, total in zip(infeasible_N, value_N, overall, strict=True)
        ]

    def gap(self, better: RankKey, worse: RankKey) -> float:
        """Return the difference of two keys: in mean rank for average_rank, else in overall."""
        if self.method == "average_rank":
            return worse.rank_value - better.rank_value
        return worse.loss - better.loss

    def is_clearly_better(
        self, better: Mapping[str, float], worse: Mapping[str, float], gap: float, margin: float
    ) -> bool:
        """Whether the gap exceeds the margin and, for pareto, `better` dominates `worse`."""
        if self.method == "pareto":
            signs_D = np.sign(list(self.weights.values()))
            better_D, worse_D = self._table([better, worse]) * signs_D
            return bool(dominates(better_D, worse_D)) and gap > margin
        return gap > margin

    def _table(self, scores: Sequence[Mapping[str, float]]) -> Float[np.ndarray, "N D"]:
        rows = [[row.get(name, np.nan) for name in self.weights] for row in scores]
        return np.asarray(rows, np.float64).reshape(len(scores), len(self.weights))


def check_method(method: str, field: str) -> None:
    """Check the name of a ranking method.

    Raises:
      BadInput: the method is unknown.
    """
    if method not in RANKINGS:
        raise BadInput(
            f"{field}={method!r}: unknown ranking method; choose from {', '.join(RANKINGS)}",
            source="configuration",
            field=field,
        )


def rank_values(
    values_NxD: Float[np.ndarray, "N D"],
    method: str = "sum",
    weights_D: Float[np.ndarray, "D"] | None = None,
    infeasible_N: Bool[np.ndarray, "N"] | None = None,
) -> Float[np.ndarray, "N"]:
    """Return a method's sort values, lower is better; infinity for a row with a missing score.

    Args:
      values_NxD: scores. If the weight is negative, lower scores are better.
      method: "sum": minus the weighted sum; "pareto": the front, from 0; "average_rank": the mean
        rank, from 1.
      weights_D: None for ones.
      infeasible_N: whether a candidate violates a constraint. For pareto, infeasible candidates get
        later fronts than all others. With the other methods the caller sorts them last (see
        `RankKey`), so that the values stay comparable.
    """
    check_method(method, "ranking")
    used_D = np.ones(values_NxD.shape[1]) if weights_D is None else weights_D
    complete_N = np.isfinite(values_NxD).all(axis=1)
    complete = values_NxD[complete_N]
    result_N = np.full(len(values_NxD), np.inf)
    if method == "sum":
        result_N[complete_N] = -(complete @ used_D)
    elif method == "pareto":
        infeasible = None if infeasible_N is None else infeasible_N[complete_N]
        result_N[complete_N] = pareto_fronts(complete * np.sign(used_D), infeasible)
    else:
        result_N[complete_N] = average_ranks(complete * np.sign(used_D), np.abs(used_D))
    return result_N


def dominates(
    a: Float[np.ndarray, "*#B D"], b: Float[np.ndarray, "*#B D"]
) -> Bool[np.ndarray, "*#B"]:
    """Whether `a` is at least `b` in every value and greater in one."""
    return np.asarray((a >= b).all(axis=-1) & (a > b).any(axis=-1))


def pareto_fronts(
    values_NxD: Float[np.ndarray, "N D"], infeasible_N: Bool[np.ndarray, "N"] | None = None
) -> Int[np.ndarray, "N"]:
    """Return the front of each candidate, 0 for the first; higher values are better."""
    if infeasible_N is None:
        infeasible_N = np.zeros(len(values_NxD), bool)
    better_NxN = dominates(values_NxD[:, None], values_NxD[None])
    better_NxN &= infeasible_N[:, None] == infeasible_N[None]
    better_NxN |= ~infeasible_N[:, None] & infeasible_N[None]
    fronts_N = np.zeros(len(values_NxD), np.int64)
    remaining_N = np.ones(len(values_NxD), bool)
    front = 0
    while remaining_N.any():
        in_front_N = remaining_N & ~better_NxN[remaining_N].any(axis=0)
        fronts_N[in_front_N] = front
        front += 1
        remaining_N &= ~in_front_N
    return fronts_N


def average_ranks(
    values_NxD: Float[np.ndarray, "N D"], weights_D: Float[np.ndarray, "D"]
) -> Float[np.ndarray, "N"]:
    """Return the weighted mean of each candidate's ranks, 1 for the highest value.

    Ties share their mean rank.
    """
    above_NxD = (values_NxD[None] > values_NxD[:, None]).sum(axis=1)
    equal_NxD = (values_NxD[None] == values_NxD[:, None]).sum(axis=1)  # includes itself
    share_D = weights_D / max(weights_D.sum(), np.finfo(float).tiny)
    return (above_NxD + (equal_NxD + 1) / 2) @ share_D
