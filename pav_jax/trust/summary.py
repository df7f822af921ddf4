"""The content of `trust.json`: statistics and a verdict for each score.

Shapes: N prompts, S seeds, D corrupted videos, G severities.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from pav_jax.candidates.statistics import paired_intervals, rounded, seed_mean
from pav_jax.candidates.store import VideoRequest
from pav_jax.records import Candidate
from pav_jax.trust import measures, verdict
from pav_jax.trust.corruptions import CORRUPTION_TYPES, SPLIT_RULE, split_types
from pav_jax.trust.samples import (
    EMPTY_PROMPT,
    PERMUTED_PROMPT,
    TRUE_PROMPT,
    Condition,
    SampleStore,
    rewards_with_names,
)

# Class of a reward -> published range of its scores. VideoScore: its ratings (arXiv 2406.15252);
# Aesthetic and MPS: approximately, of their checkpoints; the others by construction. By class
# because different rewards may give scores of the same name.
PUBLISHED_RANGES = {
    "VideoScore": (1.0, 4.0),
    "Aesthetic": (3.0, 8.0),
    "MPS": (5.0, 15.0),
    "Motion": (0.0, 1.0),
    "Faithfulness": (0.0, 1.0),
}


@dataclasses.dataclass(frozen=True)
class ScoreArrays:
    """All samples as arrays; missing scores are NaN.

    Attributes:
      prompts: the N prompts.
      by_caption: TRUE_PROMPT, PERMUTED_PROMPT or EMPTY_PROMPT -> score name -> [N, S].
      by_corruption: score name -> corruption type -> [D, G].
      refusals: score name -> error message of a reward that refused a caption.
    """

    prompts: list[str]
    by_caption: dict[str, dict[str, Float[np.ndarray, "N S"]]]
    by_corruption: dict[str, dict[str, Float[np.ndarray, "D G"]]]
    refusals: dict[str, str]

    @classmethod
    def from_store(
        cls,
        store: SampleStore,
        videos: Sequence[VideoRequest[Condition]],
        names: Sequence[str],
        seeds: Sequence[int],
        severities: Sequence[int],
    ) -> "ScoreArrays":
        """Collects the samples of `videos`, all of which have been measured."""
        prompts = list(dict.fromkeys(video.text for video in videos))
        seeds = list(seeds)
        by_caption = {
            kind: {name: np.full((len(prompts), len(seeds)), np.nan) for name in names}
            for kind in (TRUE_PROMPT, PERMUTED_PROMPT, EMPTY_PROMPT)
        }
        refusals: dict[str, str] = {}
        for video in videos:
            row = prompts.index(video.text)
            column = seeds.index(video.seed)
            for kind, arrays in by_caption.items():
                sample = store.get(video, kind)
                refusals |= dict(line.split(" = ", 1) for line in sample.refusals)
                for name, scores_NxS in arrays.items():
                    scores_NxS[row, column] = sample.scores.get(name, np.nan)
        corrupted = [video for video in videos if len(video.views) > len(by_caption)]
        by_corruption = _corruption_arrays(store, corrupted, names, severities)
        return cls(prompts, by_caption, by_corruption, refusals)


def _corruption_arrays(
    store: SampleStore,
    videos: Sequence[VideoRequest[Condition]],
    names: Sequence[str],
    severities: Sequence[int],
) -> dict[str, dict[str, Float[np.ndarray, "D G"]]]:
    """Score name -> corruption type -> scores of the D corrupted videos at G severities."""
    arrays: dict[str, dict[str, np.ndarray]] = {name: {} for name in names}
    for kind in CORRUPTION_TYPES:
        scores_DxG = [
            [store.get(video, kind if s else TRUE_PROMPT, s).scores for s in severities]
            for video in videos
        ]
        for name in names:
            arrays[name][kind] = np.asarray(
                [[scores.get(name, np.nan) for scores in row] for row in scores_DxG]
            )
    return arrays


def summarize(arrays: ScoreArrays, suite, options, pool: Sequence[Candidate]) -> dict[str, Any]:
    """The content of `trust.json`; undefined statistics are null.

    Args:
      arrays: all samples.
      suite: the rewards that were tested.
      options: the `trust` section of the configuration.
      pool: scored rewrites of evolution, if any: they show the effect of length within a prompt.
    """
    ranges = {
        name: PUBLISHED_RANGES.get(type(reward).__name__)
        for names, reward in rewards_with_names(suite)
        for name in names
    }
    ranges |= {name: r for name, r in dict(options.score_ranges).items() if name in ranges}
    tuning, validation = split_types()
    true_scores = {name: a.ravel() for name, a in arrays.by_caption[TRUE_PROMPT].items()}
    return {
        "num_prompts": len(arrays.prompts),
        "seeds": list(options.seeds),
        "severities": list(options.severities),
        "num_videos": len(arrays.prompts) * len(options.seeds),
        "num_corrupted": min(options.num_corrupted, len(arrays.prompts)),
        "split": {"rule": SPLIT_RULE, "tuning": list(tuning), "validation": list(validation)},
        "rewards": {
            name: summarize_score(name, arrays, published_range, options, pool)
            for name, published_range in ranges.items()
        },
        "score_correlations": {
            a: {b: rounded(r) for b, r in row.items()}
            for a, row in measures.correlation_matrix(true_scores).items()
        },
    }


def summarize_score(
    name: str,
    arrays: ScoreArrays,
    published_range: tuple[float, float] | None,
    options,
    pool: Sequence[Candidate],
) -> dict[str, Any]:
    """The entry of one score in `trust.json`. Arguments as in `summarize`."""
    overrides = dict(options.expected_sensitivities)
    true_NxS = arrays.by_caption[TRUE_PROMPT][name]
    permuted_NxS = arrays.by_caption[PERMUTED_PROMPT][name]
    by_type = arrays.by_corruption[name]
    difference = _mean_interval(true_NxS - permuted_NxS, options.num_resamples)
    auc = measures.auc(true_NxS.ravel(), permuted_NxS.ravel())
    std_over_seeds, std_between_prompts = measures.noise_and_signal_std(true_NxS)
    responses = verdict.corruption_responses(
        name, by_type, options.severities, std_over_seeds, overrides
    )
    observed, published = measures.saturation(true_NxS.ravel(), published_range)
    reads_prompt = verdict.should_read_prompt(name, overrides)
    expected = verdict.expected_corruptions(name, overrides)
    corruptions = {
        kind: _corruption_summary(scores_DxG, options, std_over_seeds, kind in expected)
        for kind, scores_DxG in by_type.items()
    }
    rising = [
        kind
        for kind, entry in corruptions.items()
        if (entry["correlation"][0] or 0) >= verdict.RISE_CORRELATION
    ]
    decision, reasons = verdict.decide(
        reads_prompt,
        difference,
        auc,
        responses["validation"],
        observed if published is None else published,
        rising,
    )
    return {
        "verdict": decision,
        "reasons": reasons,
        "should_read_prompt": reads_prompt,
        "prompt": _prompt_summary(name, arrays, difference, auc, options.num_resamples),
        "std": {
            "over_seeds": rounded(std_over_seeds),
            "between_prompts": rounded(std_between_prompts),
        },
        "corruptions": corruptions,
        "responses": {
            half: {field: rounded(value) for field, value in response.items()}
            for half, response in responses.items()
        },
        "length_correlation": _length_correlation(name, arrays, pool),
        "saturation": {
            "observed": _rounded(observed),
            "published": None if published is None else _rounded(published),
            "published_range": None if published_range is None else list(published_range),
        },
    }


def _prompt_summary(
    name: str, arrays: ScoreArrays, difference: Any, auc: Any, num_resamples: int
) -> dict[str, Any]:
    """How a score reacts to true, permuted and empty prompts.

    Args:
      difference: [mean, low, high] of true minus permuted.
      auc: of telling true from permuted prompts.
    """
    true_NxS, permuted_NxS, empty_NxS = (
        arrays.by_caption[kind][name] for kind in (TRUE_PROMPT, PERMUTED_PROMPT, EMPTY_PROMPT)
    )
    preferences_NxS = measures.preferences(true_NxS, permuted_NxS)
    return {
        "mean": rounded(float(np.nanmean(true_NxS))) if np.isfinite(true_NxS).any() else None,
        "true_minus_permuted": _rounded(difference),
        "auc": rounded(auc),
        "true_preferred": _rounded(_mean_interval(preferences_NxS, num_resamples)),
        "true_minus_empty": _rounded(_mean_interval(true_NxS - empty_NxS, num_resamples)),
        "empty_refused": arrays.refusals.get(name),
    }


def _corruption_summary(
    scores_DxG: Float[np.ndarray, "D G"], options, std_over_seeds: float, is_expected: bool
) -> dict[str, Any]:
    """Rank correlation [mean, low, high] and drop (in standard deviations over seeds) of a type."""
    correlations_D = measures.severity_correlations(scores_DxG, options.severities)
    interval = paired_intervals(correlations_D[:, None], options.num_resamples)[0]
    return {
        "correlation": _rounded(interval),
        "drop": rounded(verdict.drop_in_std(scores_DxG, std_over_seeds)),
        "expected": is_expected,
    }


def _length_correlation(
    name: str, arrays: ScoreArrays, pool: Sequence[Candidate]
) -> dict[str, float | int | None]:
    """Rank correlation of a score with the number of words.

    Returns:
      over `prompts` (of each prompt with its mean score), and within prompts over the `rewrites` of
      the `num_candidates` candidates in the pool.
    """
    words_N = np.array([len(prompt.split()) for prompt in arrays.prompts], float)
    prompt_means_N = seed_mean(arrays.by_caption[TRUE_PROMPT][name][..., None])[:, 0]
    scored = [c for c in pool if not c.error]
    within_prompts = measures.mean_within_group_correlation(
        [c.prompt for c in scored],
        np.array([len(c.refined.split()) for c in scored], float),
        np.array([c.scores.get(name, np.nan) for c in scored], float),
    )
    return {
        "prompts": rounded(measures.spearman(words_N, prompt_means_N)),
        "rewrites": rounded(within_prompts),
        "num_candidates": len(pool),
    }


def _mean_interval(
    difference_NxS: Float[np.ndarray, "N S"], resamples: int
) -> Float[np.ndarray, "3"]:
    """(mean, low, high) over prompts, after averaging over seeds."""
    return paired_intervals(seed_mean(difference_NxS[..., None]), resamples)[0]


def _rounded(values: Sequence[float] | Float[np.ndarray, "V"]) -> list[float | None]:
    return [rounded(value) for value in values]
