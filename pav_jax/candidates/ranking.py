"""Which of a prompt's candidates are better: the weighted sum, or two rules that need no exchange
rate between rewards.

- sum: by overall, the published rule. A gain in one reward can pay for a loss in any other.
- pareto: by fronts of non-dominated sorting (Deb et al. 2002, NSGA-II, section III-A). A candidate
  dominates another if no reward is lower and one is higher; the first front is what nothing
  dominates, the second what only the first dominates, and so on. Within a front the weighted sum
  decides, not the crowding distance: crowding keeps a population spread out, and would put the most
    one-sided candidates first where one good one is wanted.
- average_rank: by the mean of a candidate's places in each reward, 1 for the best, ties sharing
  theirs; a reward's part in the mean is its weight. Units play no part, so weights that only
  convert units are out of place here.

Fronts and places do not change when a reward is rescaled by any increasing function. Under all
three a candidate never ranks above one that dominates it. Where floors are given, whoever keeps
them ranks above whoever does not, which is constrained domination (Deb et al. 2002, section VI).

Shapes: N candidates of one prompt, D rewards that have a weight.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from pav_jax.errors import BadInput
from pav_jax.rewards.suite import CONSTRAINT_ONLY

METHODS = ("sum", "pareto", "average_rank")


def rank(
    values_NxD: Float[np.ndarray, "N D"],
    method: str = "sum",
    weights_D: Float[np.ndarray, "D"] | None = None,
    falls_N: Bool[np.ndarray, "N"] | None = None,
) -> Float[np.ndarray, "N"]:
    """The standing of each candidate: lower is better, infinite for one that lacks a value.

    Args:
      values_NxD: scores; a negative weight makes a reward one that should be low.
      method: "sum": minus the weighted sum; "pareto": the front, from 0; "average_rank": the mean
        place, from 1.
      weights_D: None for ones.
      falls_N: who is below a floor. Under pareto these come in fronts behind all others; in the
        other two methods it is for whoever sorts to put them last (see `Ranking`), so that a
        distance between standings keeps its meaning.
    """
    known_N = np.isfinite(values_NxD).all(axis=1)
    values, weights_D = (
        values_NxD[known_N],
        np.ones(values_NxD.shape[1]) if weights_D is None else weights_D,
    )
    standing_N = np.full(len(values_NxD), np.inf)
    if method == "sum":
        standing_N[known_N] = -(values @ weights_D)
    elif method == "pareto":
        standing_N[known_N] = fronts(
            values * np.sign(weights_D), None if falls_N is None else falls_N[known_N]
        )
    elif method == "average_rank":
        standing_N[known_N] = average_places(values * np.sign(weights_D), np.abs(weights_D))
    else:
        raise BadInput(f"ranking={method!r} is not known; choose from {', '.join(METHODS)}")
    return standing_N


def dominates(
    a: Float[np.ndarray, "*#B D"], b: Float[np.ndarray, "*#B D"]
) -> Bool[np.ndarray, "*#B"]:
    """No value of `a` is lower than its neighbour in `b`, and one is higher."""
    return np.asarray((a >= b).all(axis=-1) & (a > b).any(axis=-1))


def fronts(
    values_NxD: Float[np.ndarray, "N D"], falls_N: Bool[np.ndarray, "N"] | None = None
) -> Int[np.ndarray, "N"]:
    """The number of each candidate's front, 0 for the first; higher values are better."""
    falls_N = np.zeros(len(values_NxD), bool) if falls_N is None else falls_N
    better_NxN = dominates(values_NxD[:, None], values_NxD[None]) & (
        falls_N[:, None] == falls_N[None]
    )
    better_NxN |= ~falls_N[:, None] & falls_N[None]
    front_N, left_N, number = np.zeros(len(values_NxD), np.int64), np.ones(len(values_NxD), bool), 0
    while left_N.any():
        now_N = left_N & ~better_NxN[left_N].any(axis=0)
        front_N[now_N], number = number, number + 1
        left_N &= ~now_N
    return front_N


def average_places(
    values_NxD: Float[np.ndarray, "N D"], weights_D: Float[np.ndarray, "D"]
) -> Float[np.ndarray, "N"]:
    """The weighted mean of each candidate's places, 1 for the highest value; equal values share the
    mean of theirs."""
    above_NxD = (values_NxD[None] > values_NxD[:, None]).sum(axis=1)
    equal_NxD = (values_NxD[None] == values_NxD[:, None]).sum(axis=1)  # itself too
    return (above_NxD + (equal_NxD + 1) / 2) @ (
        weights_D / max(weights_D.sum(), np.finfo(float).tiny)
    )


class Place(NamedTuple):
    """Where a candidate stands among its prompt's. Places sort from the best to the worst."""

    falls: bool  # below a floor
    standing: float  # see `rank`
    loss: float  # minus overall, for ties


@dataclasses.dataclass(frozen=True)
class Ranking:
    """How candidates of one prompt are ordered: by a method, the rewards that have a weight, and
    floors."""

    method: str
    weights: Mapping[str, float]
    floors: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_config(
        cls,
        config: Any,
        section: str,
        suite: Any,
        weights: Mapping[str, float] | None = None,
        floors: Mapping[str, float] | None = None,
    ) -> "Ranking":
        """Reads `<section>.ranking` (absent: sum). `weights` None: the suite's; `floors` None:
        none.

        Raises:
          BadInput: the method is not known.
        """
        used = {
            n: float(w)
            for n, w in sorted(dict(weights or suite.weights).items())
            if w and n not in CONSTRAINT_ONLY
        }
        return cls(named_method(config, section), used, dict(floors or {}))

    def places(
        self, scores: Sequence[Mapping[str, float]], overall: Sequence[float]
    ) -> list[Place]:
        """The place of each of one prompt's candidates.

        Args:
          overall: the suite's weighted sums, finite. "sum" goes by these, to the last bit, not by a
            sum of its own.
        """
        falls_N = np.asarray(
            [any(not row.get(n, np.nan) >= f for n, f in self.floors.items()) for row in scores],
            bool,
        )
        standing_N = -np.asarray(overall, np.float64)
        if self.method != "sum":
            standing_N = rank(
                self._values(scores), self.method, np.asarray(list(self.weights.values())), falls_N
            )
        return [
            Place(bool(f), float(s), -float(v))
            for f, s, v in zip(falls_N, standing_N, overall, strict=True)
        ]

    def gap(self, better: Place, worse: Place) -> float:
        """How far apart two places are: in mean places for average_rank, else in overall."""
        return (
            worse.standing - better.standing
            if self.method == "average_rank"
            else worse.loss - better.loss
        )

    def clearly(
        self, better: Mapping[str, float], worse: Mapping[str, float], gap: float, margin: float
    ) -> bool:
        """Whether one may be preferred to the other: the gap is over the margin and, under pareto,
        the one with these scores dominates the other."""
        if self.method == "pareto":
            signs_D = np.sign(list(self.weights.values()))
            a_D, b_D = self._values([better, worse]) * signs_D
            return bool(dominates(a_D, b_D)) and gap > margin
        return gap > margin

    def _values(self, scores: Sequence[Mapping[str, float]]) -> Float[np.ndarray, "N D"]:
        rows = [[row.get(name, np.nan) for name in self.weights] for row in scores]
        return np.asarray(rows, np.float64).reshape(len(scores), len(self.weights))


def named_method(config: Any, section: str) -> str:
    """`<section>.ranking`, checked.

    Raises:
      BadInput: it is not known; the message names the field.
    """
    method = config.get(section, {}).get("ranking", "sum")
    if method not in METHODS:
        raise BadInput(
            f"{section}.ranking={method!r} is not known; choose from {', '.join(METHODS)}"
        )
    return method
