"""Running means of scores, for the progress lines of a stage."""

import math
from collections.abc import Iterable, Mapping

from pav_jax.candidates.scoring import weighted_rewards


class ScoreMeans:
    """The mean of each score over the records so far; scores that are not finite are left out."""

    def __init__(self):
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def add(self, rows: Iterable[Mapping[str, float]]) -> None:
        """Add the scores of some records."""
        for scores in rows:
            for name, value in scores.items():
                if math.isfinite(value):
                    self._sums[name] = self._sums.get(name, 0.0) + value
                    self._counts[name] = self._counts.get(name, 0) + 1

    def values(self, weights: Mapping[str, float]) -> dict[str, float]:
        """Score name -> mean.

        Args:
          weights: reward name -> weight; "overall" is the weighted sum of the means, and missing if
            one of them is.
        """
        means = {name: total / self._counts[name] for name, total in self._sums.items()}
        weighted = weighted_rewards(weights)
        if weighted and weighted.keys() <= means.keys():
            means["overall"] = sum(weight * means[name] for name, weight in weighted.items())
        return means
