"""Rewards of sampled completions and their advantages within a group.

P prompts of a step, G completions of each, B = P * G rows; the rows of a prompt are neighbours.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from pav_jax.candidates.constraints import minimum_scores
from pav_jax.candidates.scoring import overall_scores, stage_weights
from pav_jax.errors import BadInput
from pav_jax.records import Candidate
from pav_jax.train.config import GRPOConfig

FAITH = "FAITH"
DEVIATION_OFFSET = 1e-4  # TRL adds it to the standard deviation
ZERO_DEVIATION = 1e-8  # TRL counts groups below it as having one reward


def check_rewards(fields: GRPOConfig, suite: Any) -> None:
    """Check, before any video is made, that the suite gives the scores that the fields name.

    Raises:
      BadInput: it does not.
    """
    named: dict[str, Mapping[str, float]] = {
        "weights": fields.weights or {},
        "constraints": minimum_scores(fields.constraints, suite.constraints),
    }
    for field, scores in named.items():
        unknown = sorted(set(scores) - set(suite.names))
        if unknown:
            raise BadInput(
                f"config.grpo.{field}.{unknown[0]}: no reward gives this score; there are"
                f" {', '.join(suite.names)}",
                source="configuration",
                field=f"grpo.{field}.{unknown[0]}",
            )
    if fields.faith_weight and FAITH not in suite.names:
        raise BadInput(
            f"config.grpo.faith_weight={fields.faith_weight}: no reward gives {FAITH}; add"
            " faithfulness to rewards.entries, or set it to 0",
            source="configuration",
            field="grpo.faith_weight",
        )


def rewards(
    candidates: Sequence[Candidate], suite: Any, fields: GRPOConfig
) -> tuple[Float[np.ndarray, "P G"], Bool[np.ndarray, "B"]]:
    """Return (rewards, which candidates are infeasible).

    A candidate that lacks a score, or the score of a constraint, has reward NaN.

    reward = overall + faith_weight * FAITH, where overall is the suite's weighted sum of scores
    against the user's prompt. An infeasible candidate, which violates a constraint, gets the lowest
    reward of its group minus constraint_penalty * (1 + its total shortfall). It is thus worse than
    every feasible one, whatever its other scores; and a group without a feasible candidate still
    prefers a smaller shortfall.
    """
    value_B = overall_scores(candidates, weights(fields, suite))
    if fields.faith_weight:
        value_B = value_B + fields.faith_weight * _scores(candidates, FAITH)
    shortfall_B = np.zeros(len(candidates))
    for name, minimum in minimum_scores(fields.constraints, suite.constraints).items():
        shortfall_B += np.maximum(minimum - _scores(candidates, name), 0.0)
    is_scored_B = np.isfinite(value_B + shortfall_B)
    value_PxG = np.where(is_scored_B, value_B, np.nan).reshape(-1, fields.num_generations)
    shortfall_PxG = shortfall_B.reshape(value_PxG.shape)
    infeasible_PxG = np.isfinite(value_PxG) & (shortfall_PxG > 0)
    lowest_Px1 = np.where(np.isfinite(value_PxG), value_PxG, np.inf).min(axis=1, keepdims=True)
    penalized_PxG = lowest_Px1 - fields.constraint_penalty * (1 + shortfall_PxG)
    return np.where(infeasible_PxG, penalized_PxG, value_PxG), infeasible_PxG.ravel()


def _scores(candidates: Sequence[Candidate], name: str) -> Float[np.ndarray, "B"]:
    return np.array([c.scores.get(name, np.nan) for c in candidates])


def advantages(reward_PxG: Float[np.ndarray, "P G"], scale: str) -> Float[np.ndarray, "P G"]:
    """Rewards minus the mean of their group (Shao et al. 2024, section 4.1.2), 0 without a reward.

    Args:
      scale: they are divided by the standard deviation (n - 1, as TRL) of the "group" or of the
        whole "batch", plus 1e-4; "none" does not divide (Liu et al. 2025: dividing favours prompts
        whose rewards hardly differ).
    """
    has_reward = np.isfinite(reward_PxG)
    centred_PxG = np.where(has_reward, reward_PxG - _mean(reward_PxG), 0.0)
    if scale == "none":
        return centred_PxG
    groups = reward_PxG if scale == "group" else reward_PxG.reshape(1, -1)
    return centred_PxG / (_deviation(groups) + DEVIATION_OFFSET)


def reward_metrics(
    candidates: Sequence[Candidate],
    suite: Any,
    fields: GRPOConfig,
    reward_PxG: Float[np.ndarray, "P G"],
    advantage_PxG: Float[np.ndarray, "P G"],
    infeasible_B: Bool[np.ndarray, "B"],
) -> dict[str, float]:
    """A step's metrics over the completions with a reward; NaN where there is none.

    Names are TRL's where it has the metric.
    """
    has_reward_B = np.isfinite(reward_PxG).ravel()

    def mean(values: Any) -> float:
        values_B = np.asarray(values, np.float64)[has_reward_B]
        return float(values_B.mean()) if values_B.size else np.nan

    advantage_B = advantage_PxG.ravel()
    deviation_Px1 = _deviation(reward_PxG)
    metrics = {
        "reward": mean(reward_PxG.ravel()),
        "reward_std": float(_deviation(reward_PxG.reshape(1, -1)).item()),
        "frac_reward_zero_std": float((deviation_Px1 < ZERO_DEVIATION).mean()),
        "overall": mean(overall_scores(candidates, weights(fields, suite))),
    }
    for name in suite.names:
        metrics[f"rewards/{name}/mean"] = mean(_scores(candidates, name))
    return metrics | {
        "advantages/abs_mean": mean(np.abs(advantage_B)),
        "advantages/max": float(np.abs(advantage_B).max()),
        "completions/infeasible": mean(infeasible_B),
        "completions/without_reward": float(1 - has_reward_B.mean()),
    }


def weights(fields: GRPOConfig, suite: Any) -> dict[str, float]:
    """The weights of the overall score: the fields' own, or else the suite's."""
    return stage_weights({"grpo": {"weights": fields.weights}}, "grpo", suite)


def _mean(values_PxG: Float[np.ndarray, "P G"]) -> Float[np.ndarray, "P 1"]:
    """Mean of the finite values of each row; 0 where there is none."""
    finite = np.isfinite(values_PxG)
    counts_Px1 = np.maximum(finite.sum(1, keepdims=True), 1)
    return np.where(finite, values_PxG, 0.0).sum(1, keepdims=True) / counts_Px1


def _deviation(values_PxG: Float[np.ndarray, "P G"]) -> Float[np.ndarray, "P 1"]:
    """Standard deviation of the finite values of each row; 0 where there are fewer than two."""
    finite = np.isfinite(values_PxG)
    squares_PxG = np.where(finite, (values_PxG - _mean(values_PxG)) ** 2, 0.0)
    degrees_Px1 = np.maximum(finite.sum(1, keepdims=True) - 1, 1)
    return np.sqrt(squares_PxG.sum(1, keepdims=True) / degrees_Px1)
