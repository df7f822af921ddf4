"""Means, paired differences and their intervals. A score that is missing is NaN and is left out,
never counted as zero.

Letters: N prompts, S seeds, M metrics, R resamples.
"""

import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

DIGITS = 6  # results are rounded to this, so that a repeated run gives the same bytes
LEVEL = 0.95


def seed_mean(values_NxSxM: Float[np.ndarray, "N S M"]) -> Float[np.ndarray, "N M"]:
    """The mean over a prompt's seeds; NaN where none of them was scored."""
    known = np.isfinite(values_NxSxM)
    count = known.sum(axis=1)
    total = np.where(known, values_NxSxM, 0.0).sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def column_mean(values_NxM: Float[np.ndarray, "N M"]) -> Float[np.ndarray, "M"]:
    """The mean over prompts that have a score; NaN where none has."""
    return seed_mean(values_NxM[None])[0]


def paired_intervals(
    difference_NxM: Float[np.ndarray, "N M"], resamples: int = 10_000, seed: int = 0
) -> Float[np.ndarray, "M 3"]:
    """Mean difference with its 95 % bootstrap interval -> rows of (mean, low, high).

    Prompts are resampled with replacement, all metrics together; the interval holds the middle 95 %
    of the resampled means (percentile bootstrap, Efron and Tibshirani 1993, section 13.3). A NaN
    takes its prompt out of that metric. A metric without any difference gives NaN.
    """
    counts_RxN = _resample_counts(len(difference_NxM), resamples, seed)
    known = np.isfinite(difference_NxM)
    weight = counts_RxN @ known.astype(np.float64)
    total = counts_RxN @ np.where(known, difference_NxM, 0.0)
    means_RxM = np.where(weight > 0, total / np.maximum(weight, 1), np.nan)
    tail = (1 - LEVEL) / 2
    result = np.full((difference_NxM.shape[1], 3), np.nan)
    result[:, 0] = column_mean(difference_NxM)
    for m in np.flatnonzero(known.any(axis=0)):
        result[m, 1:] = np.nanquantile(means_RxM[:, m], [tail, 1 - tail])
    return result


@functools.lru_cache(maxsize=8)
def _resample_counts(n: int, resamples: int, seed: int) -> Float[np.ndarray, "R N"]:
    """How often each of `n` prompts is in each resample."""
    return (
        np.random.default_rng(seed)
        .multinomial(n, np.full(n, 1 / n), size=resamples)
        .astype(np.float64)
    )


def win_rate(ours_N: Float[np.ndarray, "N"], theirs_N: Float[np.ndarray, "N"]) -> float:
    """The share of prompts on which ours is strictly higher, of those where both are known; NaN
    where none are."""
    known = np.isfinite(ours_N) & np.isfinite(theirs_N)
    return float((ours_N[known] > theirs_N[known]).mean()) if known.any() else float("nan")


def rounded(value: float) -> float | None:
    """A number for a JSON file: six digits, None for NaN, no negative zero."""
    return round(float(value), DIGITS) + 0.0 if np.isfinite(value) else None


def summary(
    values: dict[str, Float[np.ndarray, "N M"]],
    metrics: Sequence[str],
    compared_with: dict[str, str],
    resamples: int = 10_000,
) -> dict[str, dict]:
    """What `evaluation.json` says of each system of one prompt set.

    Args:
      values: system -> its per-prompt means over seeds, columns as in `metrics`; a prompt it was
        not run on is NaN.
      metrics: reward names, and among them "overall" and "words".
      compared_with: field of the result -> system it compares with, as in {"delta": "original"}.
    """
    overall = list(metrics).index("overall")
    result = {}
    for name, values_NxM in values.items():
        means = dict(zip(metrics, map(rounded, column_mean(values_NxM)), strict=True))
        entry = {
            "scores": {m: means[m] for m in metrics if m not in ("overall", "words")},
            "overall": means["overall"],
            "words": means["words"],
        }
        if "original" in values:
            entry["win_rate"] = rounded(
                win_rate(values_NxM[:, overall], values["original"][:, overall])
            )
        for field, other in compared_with.items():
            if other in values:
                rows = paired_intervals(values_NxM - values[other], resamples)
                entry[field] = {
                    m: [rounded(v) for v in row] for m, row in zip(metrics, rows, strict=True)
                }
        result[name] = entry
    return result
