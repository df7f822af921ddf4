"""Statistics of a trust report. A missing score is NaN; it is left out, never counted as zero.

Shapes: N prompts, S seeds, D corrupted videos, G severities, V and W values, R resamples.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy import stats

from pav_jax.candidates.statistics import finite_mean

TOLERANCE = 0.01  # share of a range; values this close to a bound count as at the bound


def auc(positive_V: Float[np.ndarray, "V"], negative_W: Float[np.ndarray, "W"]) -> float:
    """Area under the ROC curve (Mann and Whitney 1947).

    Returns:
      The probability that a positive value exceeds a negative one, with ties counted as half; NaN
      if either side has no finite value.
    """
    positive, negative = (values[np.isfinite(values)] for values in (positive_V, negative_W))
    if not len(positive) or not len(negative):
        return float("nan")
    ranks = stats.rankdata(np.concatenate([positive, negative]))[: len(positive)]
    rank_sum = ranks.sum() - len(positive) * (len(positive) + 1) / 2
    return float(rank_sum / (len(positive) * len(negative)))


def preferences(
    first_NxS: Float[np.ndarray, "N S"], second_NxS: Float[np.ndarray, "N S"]
) -> Float[np.ndarray, "N S"]:
    """1 where the first of two scores is higher, 0 where it is lower, 0.5 where they are equal; NaN
    where one is missing."""
    return np.sign(first_NxS - second_NxS) / 2 + 0.5


def noise_and_signal_std(values_NxS: Float[np.ndarray, "N S"]) -> tuple[float, float]:
    """Standard deviations over seeds and between prompts, by one-way analysis of variance.

    The first is the root of the mean variance within a prompt. The second excludes the seeds' part
    in the variance of the prompts' means: sqrt(max(var(means) - within / S, 0)).

    Returns:
      (over the seeds of one prompt, between prompts), in the score's own units. Prompts with fewer
      than two scores are left out; NaN if too few are left.
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


# ------------------------------------------------------------------------------ rank correlations


def normalized_ranks(values_DxG: Float[np.ndarray, "D G"]) -> Float[np.ndarray, "D G"]:
    """Ranks of each row with mean 0 and norm 1.

    The dot product of two rows is their Spearman correlation. A constant row gives zeros, a row
    with a missing value NaN.
    """
    is_complete = np.isfinite(values_DxG).all(axis=1, keepdims=True)
    ranks = stats.rankdata(np.where(is_complete, values_DxG, 0.0), axis=1)
    ranks -= ranks.mean(axis=1, keepdims=True)
    norm = np.sqrt((ranks**2).sum(axis=1, keepdims=True))
    return np.where(is_complete, ranks / np.where(norm > 0, norm, 1.0), np.nan)


def severity_correlations(
    scores_DxG: Float[np.ndarray, "D G"], severities: Sequence[int]
) -> Float[np.ndarray, "D"]:
    """Each video's Spearman correlation of severity and score.

    -1 means that every step of severity lowers the score.
    """
    severity_G = normalized_ranks(np.asarray([severities], float))[0]
    return normalized_ranks(scores_DxG) @ severity_G


def null_correlations(
    scores_DxG: Float[np.ndarray, "D G"],
    severities: Sequence[int],
    resamples: int,
    rng: np.random.Generator,
) -> Float[np.ndarray, "R"]:
    """Permutation null distribution of the mean of `severity_correlations`.

    Each resample permutes the severities of every video at random.
    """
    ranks_DxG = normalized_ranks(scores_DxG)
    ranks_DxG = ranks_DxG[np.isfinite(ranks_DxG).all(axis=1)]
    if not len(ranks_DxG):
        return np.zeros(0)
    severity_G = normalized_ranks(np.asarray([severities], float))[0]
    severity_DxG = np.tile(severity_G, (len(ranks_DxG), 1))
    return np.asarray(
        [(ranks_DxG * rng.permuted(severity_DxG, axis=1)).sum(1).mean() for _ in range(resamples)]
    )


def spearman(a_V: Float[np.ndarray, "V"], b_V: Float[np.ndarray, "V"]) -> float:
    """Spearman correlation over the positions where both values are finite.

    NaN with fewer than three such positions or if one side is constant.
    """
    finite = np.isfinite(a_V) & np.isfinite(b_V)
    if finite.sum() < 3:
        return float("nan")
    ranks = normalized_ranks(np.stack([a_V[finite], b_V[finite]]).astype(float))
    return float(ranks[0] @ ranks[1]) if ranks.any(axis=1).all() else float("nan")


def correlation_matrix(columns: dict[str, Float[np.ndarray, "V"]]) -> dict[str, dict[str, float]]:
    """Spearman correlation of every two columns, by their names."""
    return {a: {b: spearman(x, y) for b, y in columns.items()} for a, x in columns.items()}


def mean_within_group_correlation(
    groups: Sequence[str], lengths_V: Float[np.ndarray, "V"], scores_V: Float[np.ndarray, "V"]
) -> float:
    """Mean over groups of the Spearman correlation within a group.

    With prompts as groups it holds among the rewrites of one prompt, however prompts differ. NaN if
    no group has three values that vary on both sides.
    """
    rows: dict[str, list[int]] = {}
    for i, group in enumerate(groups):
        rows.setdefault(group, []).append(i)
    correlations = [spearman(lengths_V[i], scores_V[i]) for i in rows.values()]
    return finite_mean(correlations)


# ------------------------------------------------------------------------------------- saturation


def shares_at_bounds(
    values_V: Float[np.ndarray, "V"], low: float, high: float
) -> tuple[float, float]:
    """Shares of the values at or beyond `low` and `high`, within TOLERANCE of the range."""
    finite = values_V[np.isfinite(values_V)]
    if not len(finite):
        return float("nan"), float("nan")
    margin = TOLERANCE * (high - low)
    return float((finite <= low + margin).mean()), float((finite >= high - margin).mean())


def saturation(
    values_V: Float[np.ndarray, "V"], published_range: tuple[float, float] | None
) -> tuple[tuple[float, float], tuple[float, float] | None]:
    """Shares of values at the lower and upper bound.

    Returns:
      (with the observed minimum and maximum as bounds, with the published ones; None without them).
    """
    finite = values_V[np.isfinite(values_V)]
    observed = (float("nan"), float("nan"))
    if len(finite):
        observed = shares_at_bounds(finite, finite.min(), finite.max())
    if published_range is None:
        return observed, None
    low, high = published_range
    return observed, shares_at_bounds(finite, low, high)
