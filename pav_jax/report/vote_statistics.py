"""Win rates with intervals, and the agreement of voters, from blind votes on pairs of videos.

A tie counts half. Votes on the same video pair are not independent, so intervals are over prompts:
each prompt counts once, with the mean of its votes.
"""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

from pav_jax.candidates.statistics import CONFIDENCE_LEVEL, rounded


@dataclasses.dataclass(frozen=True)
class Verdict:
    """One voter's vote on the videos of one prompt by two systems.

    Attributes:
      systems: the compared systems.
      set: the prompt set.
      prompt: of the user.
      voter: who voted.
      points: 1 if the first system won, 0 if the second did, 0.5 for a tie.
      chose_left: whether the video on the left won; None for a tie.
    """

    systems: tuple[str, str]
    set: str
    prompt: str
    voter: str
    points: float
    chose_left: bool | None


def summary(verdicts: Sequence[Verdict], systems: Sequence[str]) -> dict[str, Any]:
    """The content of `votes.json`, see `result_files.Votes`.

    Args:
      verdicts: each voter at most one for a comparison.
      systems: the order of the pairs.

    Returns:
      Numbers of `voters` and `votes`; `left_share`, the share of the votes without ties that chose
      the left side, 0.5 without a bias; `agreement`; and for each pair of systems, over all sets
      and, if there are several, in each set, its counts and `win_rate`: [mean, low, high].
    """
    order = {name: i for i, name in enumerate(systems)}
    decided = [v.chose_left for v in verdicts if v.chose_left is not None]
    by_pair: dict[tuple[str, str], list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        by_pair[verdict.systems].append(verdict)
    pairs = []
    for pair in sorted(by_pair, key=lambda names: [order[name] for name in names], reverse=True):
        sets = list(dict.fromkeys(v.set for v in by_pair[pair]))
        for name in [None, *(sets if len(sets) > 1 else [])]:
            members = [v for v in by_pair[pair] if name in (None, v.set)]
            pairs.append(_pair_summary(pair, name, members))
    return {
        "voters": len({v.voter for v in verdicts}),
        "votes": len(verdicts),
        "left_share": rounded(float(np.mean(decided))) if decided else None,
        "agreement": _agreement(_points_by_comparison(verdicts)),
        "pairs": pairs,
    }


def _points_by_comparison(verdicts: Iterable[Verdict]) -> list[list[float]]:
    points = defaultdict(list)
    for v in verdicts:
        points[v.systems, v.set, v.prompt].append(v.points)
    return list(points.values())


def _pair_summary(
    pair: tuple[str, str], set_name: str | None, verdicts: Sequence[Verdict]
) -> dict[str, Any]:
    by_prompt = _points_by_comparison(verdicts)
    points = [v.points for v in verdicts]
    return {
        "systems": list(pair),
        "set": set_name,
        "prompts": len(by_prompt),
        "voters": len({v.voter for v in verdicts}),
        "wins": points.count(1.0),
        "ties": points.count(0.5),
        "losses": points.count(0.0),
        "win_rate": [rounded(value) for value in wilson_interval(list(map(np.mean, by_prompt)))],
    }


def wilson_interval(shares: Sequence[float]) -> tuple[float, float, float]:
    """The mean of shares with its 95 % interval (Wilson 1927, equation 5).

    Wilson's interval of a proportion, with fractional successes. The variance of shares in [0, 1]
    is at most that of wins and losses with the same mean, so with ties or several voters the
    interval is rather too wide.

    Args:
      shares: of won votes, one for each prompt.

    Returns:
      (mean, low, high).
    """
    n = len(shares)
    mean = float(np.mean(shares))
    z = NormalDist().inv_cdf((1 + CONFIDENCE_LEVEL) / 2)
    center = (mean + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(mean * (1 - mean) / n + z**2 / (4 * n**2))
    return mean, max(center - half, 0.0), min(center + half, 1.0)


def _agreement(points: Iterable[Sequence[float]]) -> dict[str, Any]:
    """How far voters agree, over the comparisons with several votes."""
    repeated = [values for values in points if len(values) > 1]
    same = [
        (sum(a == b for a in values for b in values) - len(values))
        / (len(values) * (len(values) - 1))
        for values in repeated
    ]
    return {
        "prompts": len(repeated),
        "same": rounded(float(np.mean(same))) if same else None,
        "alpha": rounded(krippendorff_alpha(repeated)),
    }


def krippendorff_alpha(units: Sequence[Sequence[float]]) -> float:
    """Krippendorff's alpha with the interval metric (Krippendorff 2011, section C).

    1: voters agree, 0: as much as by chance, below: less than by chance.

    Args:
      units: the values of all voters on each unit; units with fewer than two are left out.

    Returns:
      NaN if there is nothing to compare, or all values are equal.
    """
    repeated = [np.asarray(values) for values in units if len(values) > 1]
    if not repeated:
        return math.nan
    values_V = np.concatenate(repeated)
    observed = sum(_squared_differences(values) / (len(values) - 1) for values in repeated)
    expected = _squared_differences(values_V) / (len(values_V) - 1)
    return 1 - observed / expected if expected > 0 else math.nan


def _squared_differences(values_V: np.ndarray) -> float:
    """The sum of squared differences over all ordered pairs of values."""
    return float(2 * len(values_V) * np.sum((values_V - values_V.mean()) ** 2))
