"""Selection thresholds and weights that fit the scores of a pool.

The published thresholds and weights belong to one generator and seven checkpoints, and the quantile
that a threshold had there was not published. Therefore, here,

    threshold_i = the `quantile` of score i in the pool,
    weight_i    = c * published_i * published_deviation_i / deviation_i,
    c           = sum(published * deviation) / sum(published * published_deviation)

over the weighted scores. deviation_i is score i's standard deviation in the pool, and
published_deviation_i the one it had where the published weights come from (1 unless
`calibrate.published_deviations` has it). Then weight_i * deviation_i, what a typical difference of
score i adds to the overall score, keeps the proportions of published_i * published_deviation_i. The
factor c keeps the sum of these terms as it is with the published weights on this pool, so that
margins keep their scale.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from pav_jax.candidates.constraints import passes_thresholds
from pav_jax.candidates.scoring import stage_weights, weighted_rewards
from pav_jax.candidates.statistics import rounded
from pav_jax.errors import BadInput
from pav_jax.parallel import processes
from pav_jax.records import Candidate
from pav_jax.rewards.suite import HELD_OUT
from pav_jax.rewards.suite_config import CONSTRAINT_ONLY
from pav_jax.storage.addresses import as_path
from pav_jax.storage.json_files import write_json

FILE = "calibration.json"


def calibrate(config, pool: Sequence[Candidate], workdir: str | os.PathLike) -> dict[str, Any]:
    """Writes `calibration.json` and returns its content. No stage reads that file.

    Args:
      config: the whole configuration; reads `calibrate`, and `evolve.weights` or `rewards.weights`.
      pool: scored candidates.
      workdir: the work directory, which `calibration.json` is written to.

    Raises:
      BadInput: an option of `calibrate` is invalid, or a weighted score is missing or constant in
        the pool.
    """
    options = config.calibrate
    if not 0 <= options.quantile < 1:
        raise BadInput(
            f"calibrate.quantile={options.quantile}: must be at least 0 and below 1",
            source="configuration",
            field="calibrate.quantile",
        )
    scored = [c for c in pool if c.error is None]
    scores = _scores_by_name(scored)
    deviations = {name: float(np.std(values)) for name, values in scores.items()}
    published = _published_weights(config)
    published_deviations = {name: float(s) for name, s in options.published_deviations.items()}
    thresholds = _thresholds(scores, options.quantile)
    passing_prompts = {
        c.prompt for c in scored if c.refined != c.prompt and passes_thresholds(c, thresholds)
    }
    weights = fit_weights(published, deviations, published_deviations)
    result = {
        "thresholds": {name: rounded(value) for name, value in thresholds.items()},
        "weights": {name: rounded(weight) for name, weight in weights.items()},
        "source": {
            "quantile": options.quantile,
            "num_candidates": len(scored),
            "num_prompts": len({c.prompt for c in scored}),
            "num_passing_prompts": len(passing_prompts),
            "published_weights": published,
            "published_deviations": published_deviations,
            "deviations": {name: rounded(deviation) for name, deviation in deviations.items()},
        },
    }
    processes.run_on_first_process("calibrate", lambda: write_json(as_path(workdir) / FILE, result))
    return result


def fit_threshold(values_V: Float[np.ndarray, "V"], quantile: float) -> float | None:
    """A value of the pool that a share of about 1 - `quantile` is above.

    A score passes if it is above the threshold. Where the quantile is the maximum, as for a score
    that is often at its upper bound, the next lower value is taken.

    Returns:
      The threshold in the score's own units; None if all values are equal.
    """
    below_maximum = values_V[values_V < values_V.max()]
    if not len(below_maximum):
        return None
    return float(min(np.quantile(values_V, quantile, method="lower"), below_maximum.max()))


def fit_weights(
    published: Mapping[str, float],
    deviations: Mapping[str, float],
    published_deviations: Mapping[str, float],
) -> dict[str, float]:
    """The weights of this module's formula.

    Args:
      published: score -> published weight.
      deviations: score -> standard deviation in the pool.
      published_deviations: score -> standard deviation where the weights come from; 1 if missing.

    Raises:
      BadInput: a weighted score is missing or constant, or a published deviation is not positive.
    """
    for name in published:
        _check_weighted_score(name, deviations, published_deviations)
    terms = {name: w * published_deviations.get(name, 1.0) for name, w in published.items()}
    published_sum = sum(abs(term) for term in terms.values())
    scale = 0.0
    if published_sum:
        scale = sum(abs(w) * deviations[name] for name, w in published.items()) / published_sum
    return {name: scale * term / deviations[name] for name, term in terms.items()}


def command_options(result: Mapping[str, Any]) -> list[str]:
    """Options for the next command that set the thresholds and weights, quoted for a shell."""
    return [f'"--config.rewards.{field}={result[field]!r}"' for field in ("thresholds", "weights")]


def _check_weighted_score(
    name: str, deviations: Mapping[str, float], published_deviations: Mapping[str, float]
) -> None:
    field = f"calibrate.weights.{name}"
    if name not in deviations:
        raise BadInput(
            f"{field}: the pool has no score {name}; it has {', '.join(deviations) or 'none'}",
            source="configuration",
            field=field,
        )
    if not deviations[name] > 0:
        raise BadInput(
            f"{field}: {name} is constant in the pool, so no weight fits it; remove it from"
            " calibrate.weights",
            source="configuration",
            field=field,
        )
    if not published_deviations.get(name, 1.0) > 0:
        field = f"calibrate.published_deviations.{name}"
        raise BadInput(
            f"{field}={published_deviations[name]}: must be positive",
            source="configuration",
            field=field,
        )


def _published_weights(config) -> dict[str, float]:
    return weighted_rewards(config.calibrate.weights or stage_weights(config, "evolve"))


def _thresholds(scores: Mapping[str, Float[np.ndarray, "V"]], quantile: float) -> dict[str, float]:
    """Thresholds of the scores that vary; constraints and held-out scores have none."""
    thresholds = {
        name: fit_threshold(values, quantile)
        for name, values in scores.items()
        if name not in CONSTRAINT_ONLY and not name.startswith(HELD_OUT)
    }
    return {name: value for name, value in thresholds.items() if value is not None}


def _scores_by_name(candidates: Sequence[Candidate]) -> dict[str, Float[np.ndarray, "V"]]:
    """The finite values of each score that has any, by its name."""
    scores = {}
    for name in sorted({name for c in candidates for name in c.scores}):
        values = np.array([c.scores.get(name, np.nan) for c in candidates], float)
        finite = values[np.isfinite(values)]
        if len(finite):
            scores[name] = finite
    return scores
