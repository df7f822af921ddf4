"""Statistics of one round that warn of reward hacking: the reward rises, the videos do not improve.

The statistics are informational: they never affect selection. There are four kinds of warning:

- length: rewrites get longer. Preference optimization drifts to verbosity first (Singhal et al.
  2023, arXiv 2310.03716);
- motion: DD drops, because most image-based rewards prefer static videos;
- held-out evaluators (`rewards.held_out`): one does not correlate with the overall score, or drops
  while it rises (Gao et al. 2023, arXiv 2210.10760: the optimized reward keeps rising after the
  true one has started to fall);
- saturation: many rewrites share a reward's highest score, so it no longer separates them.

A drop is clear when it exceeds STANDARD_ERRORS standard errors and SMALL_EFFECT standard deviations
of the reference, with at least MIN_SAMPLES prompts on either side. Every prompt counts once: its
rewrites are averaged first. If both sides cover the same prompts, the differences are paired, which
reduces the standard error.
"""

import dataclasses
import logging
import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from pav_jax.candidates.statistics import finite_mean
from pav_jax.records import Candidate
from pav_jax.rewards.suite import HELD_OUT, PENALTIES
from pav_jax.rewards.suite_config import CONSTRAINT_ONLY

MAX_LENGTH_RATIO = 1.5  # mean words over the baseline's (first round; for pairs: rejected rewrites)
STANDARD_ERRORS = 2.0  # of a mean change: about a 95 % confidence interval
SMALL_EFFECT = 0.2  # standard deviations (Cohen 1988)
# within-prompt Pearson correlation; a warning needs STANDARD_ERRORS / sqrt(rewrites) less than this
MIN_CORRELATION = 0.2
MAX_SATURATED_SHARE = 0.25  # share of rewrites that have a reward's highest score
TOLERANCE = 1e-3  # share of a reward's range; scores this close to the highest count as the highest
MIN_SAMPLES = 8  # prompts or rewrites per statistic; a correlation needs four times as many

MOTION_SCORE = "DD"
USER_PROMPTS = "the user's own prompts"
FIRST_ROUND = "the first round"
REJECTED_REWRITES = "the rejected rewrites"


class ScoredCandidate(NamedTuple):
    """A candidate with its overall score, which is not finite if it cannot be selected."""

    candidate: Candidate
    overall: float


RewritesByPrompt = Mapping[Hashable, Sequence[ScoredCandidate]]
ScoreOf = Callable[[ScoredCandidate], float]


@dataclasses.dataclass(frozen=True)
class MeanChange:
    """The difference between a mean and that of a reference.

    Attributes:
      mean: the difference, in the score's own units.
      standard_error: standard error of `mean`; infinite with fewer than MIN_SAMPLES prompts.
      reference_std: standard deviation of the reference over prompts.
    """

    mean: float
    standard_error: float
    reference_std: float

    @property
    def is_clear_drop(self) -> bool:
        """Whether the mean drops by more than chance and by more than a small effect."""
        return self.mean < -max(
            STANDARD_ERRORS * self.standard_error, SMALL_EFFECT * self.reference_std
        )


@dataclasses.dataclass(frozen=True)
class EvaluatorStatistics:
    """One held-out evaluator in one round.

    Attributes:
      name: name of its score, with the prefix `held_out:`.
      correlation: Pearson correlation with the overall score within prompts; NaN if undefined.
      num_rewrites: number of rewrites in the correlation.
      change: change from the round's reference; None if one side has no scores.
    """

    name: str
    correlation: float
    num_rewrites: int
    change: MeanChange | None


@dataclasses.dataclass(frozen=True)
class RoundStatistics:
    """Statistics of one round for the log and the report; NaN, None or empty without data.

    Attributes:
      name: stage and round, such as "evolve, round 2".
      num_rewrites: number of selectable rewrites.
      mean_words: mean words per rewrite.
      user_prompt_words: mean words per user prompt.
      baseline_words: mean words per rewrite of the first round; for pairs: per rejected rewrite.
      reference: reference of all changes: USER_PROMPTS, FIRST_ROUND or REJECTED_REWRITES.
      overall: change of the overall score.
      motion: change of MOTION_SCORE, for "best" (each prompt's best rewrite) and "all".
      evaluators: statistics of the held-out evaluators.
      saturation: reward -> share of rewrites with its highest score.
      warnings: one sentence per warning.
    """

    name: str
    num_rewrites: int
    mean_words: float
    user_prompt_words: float
    baseline_words: float
    reference: str
    overall: MeanChange | None
    motion: Mapping[str, MeanChange]
    evaluators: tuple[EvaluatorStatistics, ...]
    saturation: Mapping[str, float]
    warnings: tuple[str, ...] = ()

    def log_warnings(self, log: logging.Logger) -> None:
        """Log all warnings in one line, on the first process only."""
        if self.warnings and jax.process_index() == 0:
            log.warning("%s: reward-hacking warnings: %s", self.name, "; ".join(self.warnings))


def score_candidates(
    candidates: Sequence[Candidate], overall: Iterable[float]
) -> list[ScoredCandidate]:
    """Pair each candidate with its overall score."""
    return [ScoredCandidate(c, float(value)) for c, value in zip(candidates, overall, strict=True)]


def round_statistics(
    name: str,
    rewrites: Sequence[ScoredCandidate],
    user_prompts: Sequence[ScoredCandidate] = (),
    first_round: Sequence[ScoredCandidate] = (),
) -> RoundStatistics:
    """Compute the statistics and warnings of a round.

    Args:
      name: stage and round.
      rewrites: the round's candidates; those without a finite overall score are ignored.
      user_prompts: videos of the users' own prompts; the reference for changes unless empty.
      first_round: the first round's candidates; empty if `rewrites` are the first round.
    """
    by_prompt = _group_by_prompt(user_prompts)
    first_by_prompt = _group_by_prompt(first_round)
    reference_name = USER_PROMPTS if by_prompt else FIRST_ROUND
    return grouped_statistics(
        name,
        _group_by_prompt(rewrites),
        by_prompt or first_by_prompt,
        reference_name,
        first_by_prompt,
    )


def grouped_statistics(
    name: str,
    rewrites: RewritesByPrompt,
    reference: RewritesByPrompt,
    reference_name: str,
    baseline: RewritesByPrompt,
) -> RoundStatistics:
    """Compute the statistics of grouped rewrites, whose length is compared with `baseline`."""
    flat = [scored for group in rewrites.values() for scored in group]
    flat_reference = [scored for group in reference.values() for scored in group]
    evaluator_names = sorted(
        {n for scored in flat for n in scored.candidate.scores if n.startswith(HELD_OUT)}
    )
    statistics = RoundStatistics(
        name=name,
        num_rewrites=len(flat),
        mean_words=finite_mean(len(s.candidate.refined.split()) for s in flat),
        user_prompt_words=finite_mean(
            len(group[0].candidate.prompt.split()) for group in rewrites.values()
        ),
        baseline_words=finite_mean(
            len(s.candidate.refined.split()) for group in baseline.values() for s in group
        ),
        reference=reference_name,
        overall=_mean_change(rewrites, reference, lambda scored: scored.overall),
        motion=_motion_changes(rewrites, reference),
        evaluators=tuple(_evaluator(n, rewrites, reference) for n in evaluator_names),
        saturation=_saturated_shares(flat, [*flat, *flat_reference]),
    )
    return dataclasses.replace(statistics, warnings=_warnings(statistics))


def _motion_changes(
    rewrites: RewritesByPrompt, reference: RewritesByPrompt
) -> dict[str, MeanChange]:
    best = {
        prompt: [max(group, key=lambda scored: scored.overall)]
        for prompt, group in rewrites.items()
    }
    changes = {
        "best": _mean_change(best, reference, _score(MOTION_SCORE)),
        "all": _mean_change(rewrites, reference, _score(MOTION_SCORE)),
    }
    return {which: change for which, change in changes.items() if change is not None}


def _evaluator(
    name: str, rewrites: RewritesByPrompt, reference: RewritesByPrompt
) -> EvaluatorStatistics:
    correlation, num_rewrites = _within_prompt_correlation(rewrites, _score(name))
    change = _mean_change(rewrites, reference, _score(name))
    return EvaluatorStatistics(name, correlation, num_rewrites, change)


def _group_by_prompt(candidates: Sequence[ScoredCandidate]) -> RewritesByPrompt:
    """Return prompt -> its selectable candidates."""
    groups: dict[Hashable, list[ScoredCandidate]] = {}
    for scored in candidates:
        if np.isfinite(scored.overall) and scored.candidate.error is None:
            groups.setdefault(scored.candidate.prompt, []).append(scored)
    return groups


def _score(name: str) -> ScoreOf:
    return lambda scored: scored.candidate.scores.get(name, math.nan)


def _prompt_means(groups: RewritesByPrompt, score_of: ScoreOf) -> dict[Hashable, float]:
    """Return prompt -> mean score, without prompts that have no score."""
    means = {prompt: finite_mean(map(score_of, group)) for prompt, group in groups.items()}
    return {prompt: mean for prompt, mean in means.items() if np.isfinite(mean)}


def _mean_change(
    rewrites: RewritesByPrompt, reference: RewritesByPrompt, score_of: ScoreOf
) -> MeanChange | None:
    """Return the mean over prompts minus the reference's, paired if it has all the prompts."""
    means = _prompt_means(rewrites, score_of)
    reference_means = _prompt_means(reference, score_of)
    if not means or not reference_means:
        return None
    values = np.asarray(list(means.values()))
    if means.keys() <= reference_means.keys():
        paired = np.asarray([reference_means[prompt] for prompt in means])
        differences = values - paired
        return MeanChange(
            float(differences.mean()), _standard_error(differences), float(paired.std())
        )
    unpaired = np.asarray(list(reference_means.values()))
    return MeanChange(
        float(values.mean() - unpaired.mean()),
        math.hypot(_standard_error(values), _standard_error(unpaired)),
        float(unpaired.std()),
    )


def _standard_error(values_N: Float[np.ndarray, "N"]) -> float:
    """Return the standard error of the mean; infinite with fewer than MIN_SAMPLES values."""
    if len(values_N) < MIN_SAMPLES:
        return math.inf
    return float(values_N.std(ddof=1) / math.sqrt(len(values_N)))


def _within_prompt_correlation(groups: RewritesByPrompt, score_of: ScoreOf) -> tuple[float, int]:
    """Return the Pearson correlation with the overall score after subtracting each prompt's means.

    Returns:
      (correlation, number of rewrites in it).
    """
    centred = []
    for group in groups.values():
        pairs = [(score_of(s), s.overall) for s in group if np.isfinite(score_of(s))]
        if len(pairs) > 1:  # a single rewrite has no variation within its prompt
            pairs_Nx2 = np.asarray(pairs)
            centred.append(pairs_Nx2 - pairs_Nx2.mean(axis=0))
    if not centred:
        return math.nan, 0
    x, y = np.concatenate(centred).T
    norm = math.sqrt(float(x @ x) * float(y @ y))
    return (float(x @ y) / norm if norm else math.nan), len(x)


def _saturated_shares(
    rewrites: Sequence[ScoredCandidate], observed: Sequence[ScoredCandidate]
) -> dict[str, float]:
    """Return reward -> share of `rewrites` within TOLERANCE of its highest score in `observed`.

    Constraint-only rewards and held-out evaluators are excluded: neither is maximized.
    """
    # a candidate may be in several preference pairs
    distinct = {s.candidate.key: s.candidate for s in rewrites}.values()
    distinct_observed = {s.candidate.key: s.candidate for s in observed}.values()
    optimized = {
        name
        for candidate in distinct
        for name in candidate.scores
        if name not in (*CONSTRAINT_ONLY, *PENALTIES) and not name.startswith(HELD_OUT)
    }
    shares = {}
    for name in sorted(optimized):
        scores_N = _finite_scores(distinct, name)
        observed_M = _finite_scores(distinct_observed, name)
        if len(scores_N):
            highest = observed_M.max() - TOLERANCE * np.ptp(observed_M)
            shares[name] = float((scores_N >= highest).mean())
    return shares


def _finite_scores(candidates: Iterable[Candidate], name: str) -> Float[np.ndarray, "N"]:
    scores = np.asarray([c.scores.get(name, np.nan) for c in candidates])
    return scores[np.isfinite(scores)]


# ---------------------------------------------------------------------------------------- warnings


def _warnings(statistics: RoundStatistics) -> tuple[str, ...]:
    """Return one sentence, with numbers, for each statistic beyond its limit."""
    sentences = [*_length_warnings(statistics), *_motion_warnings(statistics)]
    for evaluator in statistics.evaluators:
        sentences += _evaluator_warnings(evaluator, statistics)
    if statistics.num_rewrites >= MIN_SAMPLES:
        sentences += [
            f"{reward} is saturated: {100 * share:.0f}% of the rewrites have its highest score"
            for reward, share in statistics.saturation.items()
            if share > MAX_SATURATED_SHARE
        ]
    return tuple(sentences)


def _rewrites_name(statistics: RoundStatistics) -> str:
    return "chosen rewrites" if statistics.reference == REJECTED_REWRITES else "rewrites"


def _length_warnings(statistics: RoundStatistics) -> list[str]:
    words = statistics.mean_words
    baseline_words = statistics.baseline_words
    if statistics.num_rewrites < MIN_SAMPLES or not words > MAX_LENGTH_RATIO * baseline_words:
        return []
    is_pairs = statistics.reference == REJECTED_REWRITES
    return [
        f"{_rewrites_name(statistics)} have {words:.1f} words on average,"
        f" {words / baseline_words:.2f} times the {baseline_words:.1f} of"
        f" {REJECTED_REWRITES if is_pairs else FIRST_ROUND}"
    ]


def _motion_warnings(statistics: RoundStatistics) -> list[str]:
    """Return a warning for the first clear drop: of the best rewrites, else of all rewrites."""
    for which, change in statistics.motion.items():
        if change.is_clear_drop:
            rewrites = f"the {_rewrites_name(statistics)}"
            if which == "best" and statistics.reference != REJECTED_REWRITES:
                rewrites = "each prompt's best rewrite"
            return [
                f"mean {MOTION_SCORE} of {rewrites} is {abs(change.mean):.3g} lower than that of"
                f" {statistics.reference}"
            ]
    return []


def _evaluator_warnings(evaluator: EvaluatorStatistics, statistics: RoundStatistics) -> list[str]:
    sentences = []
    if evaluator.num_rewrites >= 4 * MIN_SAMPLES:
        upper_bound = evaluator.correlation + STANDARD_ERRORS / math.sqrt(evaluator.num_rewrites)
        if upper_bound < MIN_CORRELATION:
            sentences.append(
                f"{evaluator.name} does not correlate with the overall score:"
                f" {evaluator.correlation:.2f} within prompts, {evaluator.num_rewrites} rewrites"
            )
    change = evaluator.change
    overall = statistics.overall
    if change and change.is_clear_drop and overall and overall.mean > 0:
        sentences.append(
            f"{evaluator.name} is {abs(change.mean):.3g} lower than for {statistics.reference},"
            f" while the overall score is {overall.mean:.3g} higher"
        )
    return sentences
