"""A rewrite that FAITH cannot read has no score, and no stage prefers it for that."""

import math

import pytest

from pav_jax.candidates.candidate_store import missing_scores
from pav_jax.candidates.constraints import is_feasible
from pav_jax.candidates.ranking import RANKINGS, Ranking
from pav_jax.candidates.score_means import ScoreMeans
from pav_jax.candidates.scoring import overall_scores
from pav_jax.evolve.select import select
from pav_jax.prefer.pairs import make_pairs
from pav_jax.records import Candidate
from pav_jax.report.contents import evolution_rounds
from pav_jax.rewards.faithfulness import Faithfulness
from pav_jax.train import group_rewards
from pav_jax.train.config import grpo_config
from tests.fakes import FakeSuite, make_config

PROMPT = "two red kites over a beach"
FAITHFUL = "Two red kites soar over a sandy beach."
UNFAITHFUL = "A grey cat sleeps."
UNREADABLE = "海滩上空有两只红色的风筝"
WEIGHTS = {"AES": 1.0, "TVA": 1.0}
CONSTRAINTS = {"FAITH": 0.7}


def candidates(has_error):
    """The prompt, a faithful rewrite, an unfaithful one, and the best, which is unreadable."""
    rewrites = {PROMPT: 1.0, FAITHFUL: 3.0, UNFAITHFUL: 2.0, UNREADABLE: 4.0}
    faith = Faithfulness().score(None, [PROMPT] * 4, list(rewrites))["FAITH"]
    assert math.isnan(faith[3]) and faith[1] == 1
    rows = []
    for i, (text, aes) in enumerate(rewrites.items()):
        scores = {"AES": aes, "TVA": 0.0, "FAITH": float(faith[i])}
        error = missing_scores(scores) if has_error else None
        rows.append(Candidate(text, PROMPT, text, min(i, 1), i, (), "x", 1, scores, None, error))
    return rows


def test_missing_scores_faith():
    assert [c.error for c in candidates(True)] == [None, None, None, "no score: FAITH"]


@pytest.mark.parametrize("has_error", [True, False])
def test_stages_unreadable_rewrite(has_error):
    rows = candidates(has_error)
    suite = FakeSuite()
    config = make_config(select__constraints=CONSTRAINTS, prefer__constraints=CONSTRAINTS)
    assert [pair.refined for pair in select(config, rows, suite)] == [FAITHFUL]
    pairs = make_pairs(rows, suite, config)
    assert pairs and all(pair.chosen != UNREADABLE for pair in pairs)
    assert not is_feasible(rows[3].scores, CONSTRAINTS)
    assert overall_scores(rows, WEIGHTS)[3] == (-math.inf if has_error else 4)
    assert evolution_rounds(rows, WEIGHTS)[-1].num_failed == int(has_error)
    means = ScoreMeans()
    means.add(c.scores for c in rows)
    assert means.values(WEIGHTS)["FAITH"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("method", RANKINGS)
def test_ranking_unreadable_rewrite_is_infeasible(method):
    scores = [c.scores for c in candidates(True)]
    keys = Ranking(method, WEIGHTS, CONSTRAINTS).keys(scores, [1.0, 3.0, 2.0, 4.0])
    assert min(keys) == keys[1] and keys[3].infeasible


@pytest.mark.parametrize("has_error", [True, False])
@pytest.mark.parametrize("faith_weight,constraints", [(2.0, {}), (0.0, CONSTRAINTS)])
def test_grpo_unreadable_rewrite_has_no_advantage(has_error, faith_weight, constraints):
    rows = candidates(has_error)
    fields = grpo_config()
    fields.update(num_generations=4, batch_size=4, faith_weight=faith_weight)
    fields.constraints = constraints
    rewards_PxG, infeasible_B = group_rewards.rewards(rows, FakeSuite(), fields)
    assert math.isnan(rewards_PxG[0, 3]) and not infeasible_B[3]
    advantages = group_rewards.advantages(rewards_PxG, "group")[0]
    assert advantages[3] == 0 and advantages[:3].any()
