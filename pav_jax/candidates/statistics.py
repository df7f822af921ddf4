"""Means, paired differences and bootstrap intervals of scores.

A missing score is NaN. It is excluded, never counted as zero.

Shapes: N prompts, S seeds, M metrics, R resamples.
"""

import functools
import math
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float

DIGITS = 6  # decimals of numbers in JSON files, so that a repeated run writes the same bytes
CONFIDENCE_LEVEL = 0.95


def seed_mean(values_NxSxM: Float[np.ndarray, "N S M"]) -> Float[np.ndarray, "N M"]:
    """Return the mean over each prompt's seeds; NaN if no seed has a score."""
    finite = np.isfinite(values_NxSxM)
    count = finite.sum(axis=1)
    total = np.where(finite, values_NxSxM, 0.0).sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def column_mean(values_NxM: Float[np.ndarray, "N M"]) -> Float[np.ndarray, "M"]:
    """Return the mean over the prompts that have a score; NaN if none has."""
    return seed_mean(values_NxM[None])[0]


def paired_intervals(
    difference_NxM: Float[np.ndarray, "N M"], resamples: int = 10_000, seed: int = 0
) -> Float[np.ndarray, "M 3"]:
    """Return mean paired differences with their 95 % bootstrap intervals.

    The interval is the middle 95 % of the resampled means (percentile bootstrap, Efron and
    Tibshirani 1993, section 13.3). Prompts are resampled with replacement, all metrics together.

    Args:
      difference_NxM: per prompt and metric; NaN excludes the prompt from that metric.
      resamples: number of bootstrap resamples.
      seed: seed of the resampling.

    Returns:
      Rows of (mean, low, high), in the metrics' own units; NaN for a metric without any value.
    """
    counts_RxN = _resample_counts(len(difference_NxM), resamples, seed)
    finite_NxM = np.isfinite(difference_NxM)
    weight = counts_RxN @ finite_NxM.astype(np.float64)
    total = counts_RxN @ np.where(finite_NxM, difference_NxM, 0.0)
    means_RxM = np.where(weight > 0, total / np.maximum(weight, 1), np.nan)
    tail = (1 - CONFIDENCE_LEVEL) / 2
    result = np.full((difference_NxM.shape[1], 3), np.nan)
    result[:, 0] = column_mean(difference_NxM)
    for m in np.flatnonzero(finite_NxM.any(axis=0)):
        result[m, 1:] = np.nanquantile(means_RxM[:, m], [tail, 1 - tail])
    return result


@functools.lru_cache(maxsize=8)
def _resample_counts(n: int, resamples: int, seed: int) -> Float[np.ndarray, "R N"]:
    """Return how often each of `n` prompts occurs in each resample."""
    return (
        np.random.default_rng(seed)
        .multinomial(n, np.full(n, 1 / n), size=resamples)
        .astype(np.float64)
    )


def win_rate(ours_N: Float[np.ndarray, "N"], theirs_N: Float[np.ndarray, "N"]) -> float:
    """Return the share of prompts that are strictly higher in `ours_N`.

    Prompts without both values are excluded.

    NaN if no prompt has both.
    """
    finite_N = np.isfinite(ours_N) & np.isfinite(theirs_N)
    if not finite_N.any():
        return float("nan")
    return float((ours_N[finite_N] > theirs_N[finite_N]).mean())


def finite_mean(values: Iterable[float]) -> float:
    """Return the mean of the finite values; NaN if there are none."""
    values_V = np.asarray(list(values))
    finite_V = values_V[np.isfinite(values_V)]
    return float(finite_V.mean()) if len(finite_V) else math.nan


def format_or_dash(value: float | None, spec: str) -> str:
    """Format a number for a line of text; a dash if it is None."""
    return "-" if value is None else format(value, spec)


def rounded(value: float) -> float | None:
    """Round for a JSON file: six decimals, None unless finite, no negative zero."""
    return round(float(value), DIGITS) + 0.0 if np.isfinite(value) else None


def summary(
    values: dict[str, Float[np.ndarray, "N M"]],
    metrics: Sequence[str],
    compared_with: dict[str, str],
    resamples: int = 10_000,
) -> dict[str, dict]:
    """Return the entries of `evaluation.json` for the systems of one prompt set.

    Args:
      values: system -> per-prompt means over seeds, with `metrics` as columns; NaN for a prompt
        that the system was not run on.
      metrics: names of the rewards, "overall" and "words".
      compared_with: field of the entry -> system to subtract, as in {"delta": "original"}.
      resamples: number of bootstrap resamples.

    Returns:
      system -> its mean `scores`, `overall` and `words`; its `win_rate` in overall over
      "original"; and for each field of `compared_with`, metric -> [mean, low, high].
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
