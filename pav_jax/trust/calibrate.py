"""Thresholds and weights for the scores that a pool really holds.

The published thresholds and weights belong to one generator and seven checkpoints; which percentile
a threshold had there was not published. So here

    threshold_i = the `percentile` quantile of score i in the pool,
    weight_i    = c * published_i * spread_i / deviation_i,    c = sum(published * deviation) /
    sum(published * spread)

over the scores that are weighed. deviation_i is score i's standard deviation in the pool, and
spread_i the one it had where the published weights come from (1 where `calibrate.spreads` does not
say). Then weight_i * deviation_i, what one typical difference of score i adds to overall, keeps the
proportions of published_i * spread_i; c leaves the sum of these terms as the published weights
would have it on this pool, so that margins keep their scale.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float

from pav_jax.candidates.constraints import passes_thresholds
from pav_jax.candidates.statistics import rounded
from pav_jax.errors import BadInput
from pav_jax.parallel import processes
from pav_jax.records import Candidate
from pav_jax.rewards.suite import FLOOR_ONLY, HELD_OUT
from pav_jax.storage.json_files import write_json

FILE = "calibration.json"


def calibrate(config, pool: Sequence[Candidate], workdir: str | os.PathLike) -> dict[str, Any]:
    """Writes `calibration.json` and returns it; no stage reads it.

    Args:
      config: the whole configuration; reads `calibrate`, and `evolve.weights` or `rewards.weights`.

    Raises:
      BadInput: a percentile or spread out of range, or a weight of a score that the pool does not
        hold.
    """
    options = config.calibrate
    if not 0 <= options.percentile < 1:
        raise BadInput(f"calibrate.percentile={options.percentile}: must be at least 0 and below 1")
    usable = [c for c in pool if c.error is None]
    names = sorted(set().union(*(c.scores for c in usable)))
    scores = {name: _known(usable, name) for name in names}
    scores = {name: values for name, values in scores.items() if len(values)}
    published = dict(options.weights or config.evolve.weights or config.rewards.weights)
    published = {name: float(w) for name, w in published.items() if w and name not in FLOOR_ONLY}
    bounded = [name for name in scores if name not in FLOOR_ONLY and not name.startswith(HELD_OUT)]
    limits = {name: threshold(scores[name], options.percentile) for name in bounded}
    limits = {name: value for name, value in limits.items() if value is not None}
    passing = {c.prompt for c in usable if c.refined != c.prompt and passes_thresholds(c, limits)}
    deviations = {name: float(np.std(values)) for name, values in scores.items()}
    result = {
        "thresholds": {name: rounded(value) for name, value in limits.items()},
        "weights": {
            name: rounded(w)
            for name, w in weights(published, deviations, dict(options.spreads)).items()
        },
        "from": {
            "percentile": options.percentile,
            "candidates": len(usable),
            "prompts": len({c.prompt for c in usable}),
            "prompts_passing": len(passing),
            "weights": published,
            "spreads": {name: float(s) for name, s in options.spreads.items()},
            "deviations": {name: rounded(d) for name, d in deviations.items()},
        },
    }
    processes.run_on_first_process(
        "calibrate", lambda: write_json(epath.Path(workdir) / FILE, result)
    )
    return result


def threshold(values_V: Float[np.ndarray, "V"], percentile: float) -> float | None:
    """A value of the pool that about a share of 1 - `percentile` lies above. Where that is the
    highest of all, as with a score that is often at its end, the next one below, since what passes
    is above the threshold; None where all are equal."""
    lower = values_V[values_V < values_V.max()]
    return (
        float(min(np.quantile(values_V, percentile, method="lower"), lower.max()))
        if len(lower)
        else None
    )


def weights(
    published: Mapping[str, float], deviations: Mapping[str, float], spreads: Mapping[str, float]
) -> dict[str, float]:
    """The weights of this module's formula.

    Raises:
      BadInput: a weighed score is missing or constant, or a spread is not above 0.
    """
    for name in published:
        if name not in deviations:
            raise BadInput(
                f"calibrate: the pool holds no score {name}, but it is weighed; there are"
                f" {', '.join(deviations) or 'none'}"
            )
        if not deviations[name] > 0:
            raise BadInput(
                f"calibrate: every {name} in the pool is the same, so it has no weight to fit;"
                " leave it out of calibrate.weights"
            )
        if not spreads.get(name, 1.0) > 0:
            raise BadInput(f"calibrate.spreads.{name}={spreads[name]}: must be above 0")
    wanted = {name: w * spreads.get(name, 1.0) for name, w in published.items()}
    total = sum(abs(w) for w in wanted.values())
    scale = (
        sum(abs(w) * deviations[name] for name, w in published.items()) / total if total else 0.0
    )
    return {name: scale * w / deviations[name] for name, w in wanted.items()}


def overrides(result: Mapping[str, Any]) -> list[str]:
    """What to put behind a command, quoted for a shell."""
    return [f'"--config.rewards.{field}={result[field]!r}"' for field in ("thresholds", "weights")]


def _known(pool: Sequence[Candidate], name: str) -> Float[np.ndarray, "V"]:
    values = np.array([c.scores.get(name, np.nan) for c in pool], float)
    return values[np.isfinite(values)]
