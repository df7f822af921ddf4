"""The figures of a trust report. A score that is missing is NaN and is left out, never counted as
zero.

Letters: N prompts, S seeds, M scores, D damaged videos, G severities, V values, R resamples.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy import stats

HAIR = 0.01  # of a range: so near to its end counts as the end


def auc(higher_V: Float[np.ndarray, "V"], lower_W: Float[np.ndarray, "W"]) -> float:
    """The chance that one of `higher` lies above one of `lower`, ties counted half (Mann and
    Whitney 1947); NaN where either is empty."""
    higher, lower = (values[np.isfinite(values)] for values in (higher_V, lower_W))
    if not len(higher) or not len(lower):
        return float("nan")
    ranks = stats.rankdata(np.concatenate([higher, lower]))[: len(higher)]
    return float((ranks.sum() - len(higher) * (len(higher) + 1) / 2) / (len(higher) * len(lower)))


def noise_floor(values_NxS: Float[np.ndarray, "N S"]) -> tuple[float, float]:
    """(deviation over the seeds of one prompt, deviation between prompts), by one-way analysis of
    variance.

    The first is the root of the mean variance within a prompt. The second leaves out what the seeds
    give the prompts'
    means: sqrt(max(var(means) - within / S, 0)). A prompt without two scores is left out; NaN where
      none is left.
    """
    rows = [row[np.isfinite(row)] for row in values_NxS]
    rows = [row for row in rows if len(row) > 1]
    if not rows:
        return float("nan"), float("nan")
    within = float(np.mean([row.var(ddof=1) for row in rows]))
    if len(rows) < 2:
        return within**0.5, float("nan")
    from_seeds = within * float(np.mean([1 / len(row) for row in rows]))
    between = float(np.var([row.mean() for row in rows], ddof=1)) - from_seeds
    return within**0.5, max(between, 0.0) ** 0.5


# -------------------------------------------------------------------------------- rank correlations


def unit_ranks(values_DxG: Float[np.ndarray, "D G"]) -> Float[np.ndarray, "D G"]:
    """Ranks with mean 0 and length 1, so that a product of two rows is Spearman's correlation.
    Zeros for a constant
    row: it follows nothing; NaN for one that lacks a value."""
    whole = np.isfinite(values_DxG).all(axis=1, keepdims=True)
    ranks = stats.rankdata(np.where(whole, values_DxG, 0.0), axis=1)
    ranks -= ranks.mean(axis=1, keepdims=True)
    length = np.sqrt((ranks**2).sum(axis=1, keepdims=True))
    return np.where(whole, ranks / np.where(length > 0, length, 1.0), np.nan)


def severity_correlations(
    scores_DxG: Float[np.ndarray, "D G"], severities: Sequence[int]
) -> Float[np.ndarray, "D"]:
    """Each video's Spearman correlation of severity and score: -1 where every step of damage costs
    something."""
    return unit_ranks(scores_DxG) @ unit_ranks(np.asarray([severities], float))[0]


def chance_correlations(
    scores_DxG: Float[np.ndarray, "D G"],
    severities: Sequence[int],
    resamples: int,
    rng: np.random.Generator,
) -> Float[np.ndarray, "R"]:
    """The mean of `severity_correlations` when each video's severities are dealt out at random,
    again and again."""
    ranks_DxG = unit_ranks(scores_DxG)
    ranks_DxG = ranks_DxG[np.isfinite(ranks_DxG).all(axis=1)]
    if not len(ranks_DxG):
        return np.zeros(0)
    severity_G = unit_ranks(np.asarray([severities], float))[0]
    return np.asarray(
        [
            (ranks_DxG * rng.permuted(np.tile(severity_G, (len(ranks_DxG), 1)), axis=1))
            .sum(1)
            .mean()
            for _ in range(resamples)
        ]
    )


def spearman(a_V: Float[np.ndarray, "V"], b_V: Float[np.ndarray, "V"]) -> float:
    """Spearman's correlation of what both have; NaN for fewer than three pairs, or where one is
    constant."""
    both = np.isfinite(a_V) & np.isfinite(b_V)
    if both.sum() < 3:
        return float("nan")
    ranks = unit_ranks(np.stack([a_V[both], b_V[both]]).astype(float))
    return float(ranks[0] @ ranks[1]) if ranks.any(axis=1).all() else float("nan")


def correlation_matrix(columns: dict[str, Float[np.ndarray, "V"]]) -> dict[str, dict[str, float]]:
    return {a: {b: spearman(x, y) for b, y in columns.items()} for a, x in columns.items()}


def grouped_correlation(
    groups: Sequence[str], lengths_V: Float[np.ndarray, "V"], scores_V: Float[np.ndarray, "V"]
) -> float:
    """The mean of each group's own Spearman correlation: what holds among the rewrites of one
    prompt, however prompts differ. NaN where no group of three varies in both."""
    rows: dict[str, list[int]] = {}
    for i, group in enumerate(groups):
        rows.setdefault(group, []).append(i)
    found = [spearman(lengths_V[i], scores_V[i]) for i in rows.values()]
    known = [r for r in found if np.isfinite(r)]
    return float(np.mean(known)) if known else float("nan")


# ------------------------------------------------------------------------------------------ the rim


def at_ends(values_V: Float[np.ndarray, "V"], low: float, high: float) -> tuple[float, float]:
    """The shares of values within a hair of `low`, and of `high`; a value beyond an end is at
    it."""
    known = values_V[np.isfinite(values_V)]
    if not len(known):
        return float("nan"), float("nan")
    hair = HAIR * (high - low)
    return float((known <= low + hair).mean()), float((known >= high - hair).mean())


def saturation(
    values_V: Float[np.ndarray, "V"], published: tuple[float, float] | None
) -> tuple[tuple[float, float], tuple[float, float] | None]:
    """`at_ends` of the values seen, and of the published range where there is one."""
    known = values_V[np.isfinite(values_V)]
    seen = at_ends(known, known.min(), known.max()) if len(known) else (float("nan"),) * 2
    return seen, None if published is None else at_ends(known, *published)
