"""Rewards of rewrites and their advantages within a group."""

import math

import numpy as np
import pytest

from pav_jax.records import Candidate
from pav_jax.train import group_rewards
from pav_jax.train.config import REWARD_SCALES, grpo_config
from tests.fakes import FakeSuite


def candidate(aes, faith=1.0, error=None):
    return Candidate(
        "key", "p", "r", 1, 0, (), "grpo", 1, {"AES": aes, "TVA": 0.0, "FAITH": faith}, None, error
    )


def reward(rows, **changes):
    fields = grpo_config()
    fields.update(dict(num_generations=len(rows), batch_size=len(rows)) | changes)
    values, infeasible = group_rewards.rewards(
        [candidate(*row) for row in rows], FakeSuite(), fields
    )
    return values[0].tolist(), infeasible.tolist()


def test_rewards_faith_and_constraints():
    rows = [(2.0, 1.0), (9.0, 0.5), (1.0, 0.8), (9.0, 0.0)]
    assert reward(rows, faith_weight=0.0, constraints={}) == ([2.0, 9.0, 1.0, 9.0], [False] * 4)
    assert reward(rows, faith_weight=2.0, constraints={})[0] == [4.0, 10.0, 2.6, 9.0]
    # the least of 4, 10, 2.6 and 9, minus 0.5 (1 + what is missing to 0.75)
    rewards, infeasible = reward(
        rows, faith_weight=2.0, constraints={"FAITH": 0.75}, constraint_penalty=0.5
    )
    assert rewards == pytest.approx([4.0, 2.6 - 0.5 * 1.25, 2.6, 2.6 - 0.5 * 1.75])
    assert infeasible == [False, True, False, True]
    both = reward([(2.0, 0.2), (3.0, 0.4)], constraints={"FAITH": 0.75})[0]
    assert both[0] < both[1] < 2.2  # both infeasible: the smaller shortfall wins


@pytest.mark.parametrize("scale", REWARD_SCALES)
def test_advantages_missing_reward(scale):
    rows = np.array(
        [[1.0, np.nan, 3.0, 5.0], [2.0, 2.0, 2.0, 2.0], [np.nan] * 4, [7.0, np.nan, np.nan, np.nan]]
    )
    advantages = group_rewards.advantages(rows, scale)
    finite = np.array([1.0, 3.0, 5.0])
    everything = rows[np.isfinite(rows)].std(ddof=1)
    divisor = {"group": finite.std(ddof=1) + 1e-4, "batch": everything + 1e-4, "none": 1.0}[scale]
    np.testing.assert_allclose(advantages[0], np.array([-2.0, 0.0, 0.0, 2.0]) / divisor, rtol=1e-6)
    assert not advantages[1:].any()
    assert reward([(math.nan, 1.0), (1.0, 1.0), (1.0, 1.0, "broken")])[0] == pytest.approx(
        [math.nan, 2.0, math.nan], nan_ok=True
    )
