"""The verdict on a score: can it be optimized?

    insensitive to the prompt  although it should be sensitive: the confidence interval of true
                               minus permuted prompts contains zero, or their AUC is below MIN_AUC
    noisy                      it does not respond to the corruptions that it should respond to: on
                               the validation types the median rank correlation is above minus the
                               threshold, or the median drop at the highest severity is below
                               MIN_DROP_STD standard deviations over seeds
    usable                     neither
    no scores                  too few finite scores

Each verdict comes with its reasons and with warnings: a score that rises with a corruption, which
optimization would then favour, or one that is mostly at a bound of its range.

The threshold of the rank correlation is tuned on one half of the corruption types: there, at most a
FALSE_POSITIVE_RATE of random permutations of the severities passes it; it is at least
MIN_THRESHOLD. It is validated on the other half: permutations should pass it about as rarely, and
the types that the score should respond to should pass it.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from pav_jax.candidates.statistics import finite_mean
from pav_jax.records import stable_seed
from pav_jax.rewards.suite import HELD_OUT
from pav_jax.trust import measures
from pav_jax.trust.corruptions import FAMILIES, VIDEO_CORRUPTIONS, split_types

USABLE = "usable"
NOISY = "noisy"
PROMPT_INSENSITIVE = "insensitive to the prompt"
NO_SCORES = "no scores"

MIN_AUC = 0.6  # of true against permuted prompts
MIN_THRESHOLD = (
    0.2  # of the rank correlation: with many videos, chance alone demands almost nothing
)
FALSE_POSITIVE_RATE = 0.01
RISE_CORRELATION = 0.5  # rank correlation from which a score is said to rise with a corruption
MIN_DROP_STD = 1.0  # standard deviations over seeds, at the highest severity
MAX_SATURATED_SHARE = 0.5  # share of scores at a bound
NUM_PERMUTATIONS = 2000

# score -> families of corruptions that it should respond to; "text": it should read the prompt
EXPECTED_SENSITIVITIES = {
    "AES": ("picture",),
    "VQ": ("picture", "content"),
    "TC": ("consistency",),
    "DD": ("motion",),
    "FC": ("content", "consistency"),
    "TVA": ("content", "text"),
    "CLIP": ("content", "text"),
    "VR_VQ": ("picture", "content"),
    "VR_MQ": ("consistency", "motion"),
    "VR_TA": ("content", "text"),
    "MPS": ("picture", "content", "text"),
    "HPSV3": ("picture", "content", "text"),
    "FAITH": ("text",),
    "CFC": ("consistency",),
    "PC": ("consistency",),
    "VQA": ("content", "text"),
    "RUBRIC_SF": ("text",),
    "QA": ("picture", "content", "consistency", "text"),
}
ALIGNMENT_SCORES = ("TVA", "CLIP", "VR_TA", "VQA")  # of the video with the prompt, nothing else
DEFAULT_SENSITIVITIES = ("picture", "content")  # of a score that is not in the table


def expected_corruptions(name: str, overrides: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Corruption types that a score should respond to.

    Args:
      name: of the score, with or without the `held_out:` prefix.
      overrides: score -> families, instead of `EXPECTED_SENSITIVITIES`.
    """
    name = name.removeprefix(HELD_OUT)
    families = overrides.get(name, EXPECTED_SENSITIVITIES.get(name, DEFAULT_SENSITIVITIES))
    return tuple(kind for kind, family in FAMILIES.items() if family in families)


def should_read_prompt(name: str, overrides: Mapping[str, Sequence[str]]) -> bool:
    """Whether a score should be sensitive to the prompt. Arguments as `expected_corruptions`."""
    return any(kind not in VIDEO_CORRUPTIONS for kind in expected_corruptions(name, overrides))


def corruption_responses(
    name: str,
    scores: Mapping[str, Float[np.ndarray, "D G"]],
    severities: Sequence[int],
    seed_std: float,
    overrides: Mapping[str, Sequence[str]],
) -> dict[str, dict[str, float]]:
    """How a score responds to the corruptions that it should respond to.

    Args:
      name: of the score.
      scores: corruption type -> scores of each corrupted video at each severity.
      severities: ascending, starting with 0.
      seed_std: the score's standard deviation over seeds.
      overrides: as in `expected_corruptions`.

    Returns:
      For the "tuning" and the "validation" types: the median `correlation` and median `drop` (at
      the highest severity, in standard deviations over seeds) over types, the share of types
      `detected`, the `threshold`, and the `false_positive_rate` of random permutations. NaN without
      data; an infinite drop where scores do not vary over seeds.
    """
    rng = np.random.default_rng(stable_seed("trust", name))
    expected = expected_corruptions(name, overrides)
    tuning, validation = ([kind for kind in kinds if kind in expected] for kinds in split_types())
    null = _null_distribution(tuning, scores, severities, rng)
    threshold = MIN_THRESHOLD
    if len(null):
        threshold = max(MIN_THRESHOLD, float(np.quantile(-null, 1 - FALSE_POSITIVE_RATE)))
    responses = {"tuning": _response(tuning, scores, severities, seed_std, threshold, null)}
    null = _null_distribution(validation, scores, severities, rng)
    responses["validation"] = _response(validation, scores, severities, seed_std, threshold, null)
    return responses


def _null_distribution(
    kinds: Sequence[str],
    scores: Mapping[str, Float[np.ndarray, "D G"]],
    severities: Sequence[int],
    rng: np.random.Generator,
) -> Float[np.ndarray, "R"]:
    """Mean rank correlations of random permutations, of all types together."""
    samples = [
        measures.null_correlations(scores[kind], severities, NUM_PERMUTATIONS, rng)
        for kind in kinds
    ]
    return np.concatenate(samples) if samples else np.zeros(0)


def _response(
    kinds: Sequence[str],
    scores: Mapping[str, Float[np.ndarray, "D G"]],
    severities: Sequence[int],
    seed_std: float,
    threshold: float,
    null_R: Float[np.ndarray, "R"],
) -> dict[str, float]:
    """One entry of `corruption_responses`."""
    correlations = [
        finite_mean(measures.severity_correlations(scores[kind], severities)) for kind in kinds
    ]
    detected = [-correlation >= threshold for correlation in correlations]
    return {
        "correlation": _median(correlations),
        "drop": _median([drop_in_std(scores[kind], seed_std) for kind in kinds]),
        "detected": float(np.mean(detected)) if kinds else float("nan"),
        "threshold": threshold,
        "false_positive_rate": (
            float((-null_R >= threshold).mean()) if len(null_R) else float("nan")
        ),
    }


def drop_in_std(scores_DxG: Float[np.ndarray, "D G"], seed_std: float) -> float:
    """Mean drop from severity 0 to the highest, in standard deviations over seeds."""
    drop = finite_mean(scores_DxG[:, 0] - scores_DxG[:, -1])
    if not np.isfinite(drop) or not np.isfinite(seed_std):
        return float("nan")
    if seed_std > 0:
        return drop / seed_std
    return float(np.sign(drop) * np.inf) if drop else 0.0


def decide(
    reads_prompt: bool,
    difference: Sequence[float] | Float[np.ndarray, "3"],
    auc: float,
    validation: Mapping[str, float],
    saturated_shares: Sequence[float],
    rising: Sequence[str] = (),
) -> tuple[str, list[str]]:
    """Decides the verdict.

    Args:
      reads_prompt: whether the score should read the prompt.
      difference: of the scores with true and with permuted prompts: (mean, low, high).
      auc: of true against permuted prompts.
      validation: see `corruption_responses`.
      saturated_shares: shares of scores at the lower and the upper bound.
      rising: corruption types that the score rises with.

    Returns:
      (verdict, reasons and warnings).
    """
    if not np.isfinite(difference[0]) or not np.isfinite(validation["correlation"]):
        return NO_SCORES, ["too few finite scores"]
    prompt_insensitive = reads_prompt and not (difference[1] > 0 and auc >= MIN_AUC)
    weak_response = -validation["correlation"] < validation["threshold"]
    small_drop = validation["drop"] < MIN_DROP_STD
    reasons = []
    if prompt_insensitive:
        reasons.append(f"permuted prompts score as high as true ones (AUC {auc:.2f})")
    if not reads_prompt:
        reasons.append("not expected to read the prompt")
    if weak_response:
        reasons.append(
            f"weak response to corruptions (rank correlation {validation['correlation']:.2f})"
        )
    if small_drop:
        reasons.append(
            f"drops by only {validation['drop']:.1f} standard deviations over seeds at the highest"
            " severity"
        )
    reasons += _warnings(saturated_shares, rising)
    if prompt_insensitive:
        return PROMPT_INSENSITIVE, reasons
    return (NOISY if weak_response or small_drop else USABLE), reasons


def _warnings(saturated_shares: Sequence[float], rising: Sequence[str]) -> list[str]:
    warnings = [
        f"{100 * share:.0f}% of the scores are at the {bound} bound"
        for bound, share in zip(("lower", "upper"), saturated_shares, strict=True)
        if share > MAX_SATURATED_SHARE
    ]
    if rising:
        warnings.append(f"rises with {', '.join(rising)}")
    return warnings


def _median(values: Sequence[float]) -> float:
    numbers = [v for v in values if not np.isnan(v)]
    return float(np.median(numbers)) if numbers else float("nan")
