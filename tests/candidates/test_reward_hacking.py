"""Reward-hacking statistics, their warnings, and reading them from a work directory."""

import dataclasses
import logging
import math

import numpy as np
import pytest

from pav_jax.candidates import reward_hacking
from pav_jax.candidates.reward_hacking import ScoredCandidate, round_statistics
from pav_jax.candidates.reward_hacking_rounds import (
    StepWindows,
    evolution_statistics,
    pair_statistics,
    read_pair_statistics,
    read_round_statistics,
)
from pav_jax.records import Candidate, Preference
from pav_jax.storage.records import SegmentFolder, write_jsonl

EVALUATOR = "held_out:VQ"
CONFIG = {"rewards": {"weights": {"AES": 1.0}}}


def make_candidates(round, make_scores, num_prompts=20, per_prompt=3, words=10, seed=0):
    """Scored candidates; `make_scores(rng, overall)` returns further scores of each."""
    rng = np.random.default_rng([seed, round])
    candidates = []
    for p in range(num_prompts):
        for i in range(per_prompt if round else 1):
            overall = float(rng.normal())
            refined = f"prompt number {p}"
            if round:
                refined = " ".join([f"{p}-{i}"] + ["w"] * (words - 1))
            candidate = Candidate(
                key=f"{seed} {round} {p} {i}",
                prompt=f"prompt number {p}",
                refined=refined,
                round=round,
                index=i,
                parents=(),
                proposer="local",
                seed=1,
                scores={"AES": overall, "FAITH": 1.0} | make_scores(rng, overall),
                video=None,
                error=None,
            )
            candidates.append(ScoredCandidate(candidate, overall))
    return candidates


def healthy_scores(rng, overall):
    return {"DD": float(rng.normal(0.5, 0.1)), EVALUATOR: overall + float(rng.normal(0, 0.3))}


def shift_scores(candidates, **offsets):
    """The same candidates with their scores, and with AES their overall score, shifted."""
    return [
        ScoredCandidate(
            dataclasses.replace(
                candidate,
                scores={
                    name: score + offsets.get(name.removeprefix("held_out:"), 0.0)
                    for name, score in candidate.scores.items()
                },
            ),
            overall + offsets.get("AES", 0.0),
        )
        for candidate, overall in candidates
    ]


def test_evolution_statistics_healthy_round(caplog):
    statistics = evolution_statistics(
        2,
        make_candidates(0, healthy_scores)
        + make_candidates(1, healthy_scores)
        + make_candidates(2, healthy_scores, words=12),
    )
    assert statistics.warnings == ()
    assert (statistics.name, statistics.num_rewrites) == ("evolve, round 2", 60)
    assert statistics.mean_words == 12
    assert statistics.user_prompt_words == 3
    assert statistics.baseline_words == 10
    assert set(statistics.motion) == {"best", "all"}
    assert statistics.evaluators[0].correlation > 0.8
    assert set(statistics.saturation) == {"AES", "DD"}  # no constraint, no held-out evaluator
    statistics.log_warnings(logging.getLogger("test"))
    assert not caplog.records


def test_evolution_statistics_longer_rewrites(caplog):
    pool = (
        make_candidates(0, healthy_scores)
        + make_candidates(1, healthy_scores)
        + make_candidates(2, healthy_scores, words=16)
    )
    statistics = evolution_statistics(2, pool)
    assert statistics.warnings == (
        "rewrites have 16.0 words on average, 1.60 times the 10.0 of the first round",
    )
    assert evolution_statistics(1, pool).warnings == ()
    statistics.log_warnings(logging.getLogger("test"))
    (record,) = caplog.records
    assert record.getMessage() == (
        f"evolve, round 2: reward-hacking warnings: {statistics.warnings[0]}"
    )


def test_evolution_statistics_motion_drop():
    user_prompts = make_candidates(0, healthy_scores)
    rewrites = make_candidates(1, healthy_scores)
    slower = shift_scores(rewrites, DD=-0.3)
    (warning,) = evolution_statistics(1, user_prompts + slower).warnings
    assert warning.startswith("mean DD of each prompt's best rewrite is 0.")
    assert "of the user's own prompts" in warning
    assert not evolution_statistics(1, user_prompts + shift_scores(rewrites, DD=-0.01)).warnings
    few_prompts = {f"prompt number {i}" for i in range(3)}
    too_few = [s for s in user_prompts + slower if s.candidate.prompt in few_prompts]
    assert too_few
    assert not evolution_statistics(1, too_few).warnings


def test_evolution_statistics_evaluator_drop():
    user_prompts = make_candidates(0, healthy_scores)
    rewrites = make_candidates(1, healthy_scores)
    (warning,) = evolution_statistics(
        1, user_prompts + shift_scores(rewrites, AES=3.0, VQ=-3.0)
    ).warnings
    assert warning.startswith(f"{EVALUATOR} is")
    assert "while the overall score is" in warning
    for offsets in (dict(AES=3.0, VQ=3.0), dict(AES=-3.0, VQ=-3.0)):
        shifted = shift_scores(rewrites, **offsets)
        assert not evolution_statistics(1, user_prompts + shifted).warnings


def test_evolution_statistics_uncorrelated_evaluator():
    def opposite_scores(rng, overall):
        scores = healthy_scores(rng, overall)
        return scores | {EVALUATOR: -overall + float(rng.normal(0, 0.3))}

    pool = make_candidates(0, healthy_scores) + make_candidates(1, opposite_scores)
    (warning,) = evolution_statistics(1, pool).warnings
    assert warning.startswith(f"{EVALUATOR} does not correlate with the overall score")
    assert "60 rewrites" in warning


def test_evolution_statistics_saturated_reward():
    def capped_scores(rng, overall):
        return {"TC": min(float(rng.normal(0.95, 0.1)), 1.0)}

    pool = make_candidates(0, capped_scores) + make_candidates(1, capped_scores)
    (warning,) = evolution_statistics(1, pool).warnings
    assert warning.startswith("TC is saturated: ")
    assert warning.endswith("% of the rewrites have its highest score")


def test_round_statistics_counts_repeated_candidates_once():
    candidates = make_candidates(1, healthy_scores, num_prompts=1)
    assert round_statistics("x", candidates * 9).saturation["AES"] == pytest.approx(1 / 3)


def test_round_statistics_ignores_failed_candidates():
    pool = make_candidates(0, healthy_scores) + make_candidates(1, healthy_scores)
    failed = [
        ScoredCandidate(dataclasses.replace(candidate, error="x"), 99.0)
        for candidate, _ in make_candidates(1, healthy_scores, seed=1)
    ]
    unscored = [
        ScoredCandidate(candidate, math.nan)
        for candidate, _ in make_candidates(1, healthy_scores, seed=2)
    ]
    assert evolution_statistics(1, pool + failed + unscored) == evolution_statistics(1, pool)


def test_round_statistics_no_candidates():
    statistics = round_statistics("empty", [])
    assert statistics.num_rewrites == 0
    assert statistics.warnings == ()
    assert math.isnan(statistics.mean_words)
    assert statistics.overall is None


def test_pair_statistics_chosen_against_rejected():
    by_prompt = {}
    for scored in make_candidates(1, healthy_scores, per_prompt=2):
        by_prompt.setdefault(scored.candidate.prompt, []).append(scored)
    preferences = []
    candidates = []
    for prompt, ((first, _), (second, _)) in by_prompt.items():
        longer = f"{first.refined} " + "more " * 20
        slower = first.scores | {"DD": second.scores["DD"] - 0.3}
        chosen = dataclasses.replace(first, refined=longer, scores=slower)
        candidates += [ScoredCandidate(chosen, 1.0), ScoredCandidate(second, 0.0)]
        preferences.append(Preference(prompt, longer, second.refined, 1.0))
    statistics = pair_statistics(1, preferences, candidates)
    assert statistics.num_rewrites == 20
    assert statistics.mean_words == 30
    assert statistics.baseline_words == 10
    assert statistics.warnings == (
        "chosen rewrites have 30.0 words on average, 3.00 times the 10.0 of the rejected rewrites",
        "mean DD of the chosen rewrites is 0.3 lower than that of the rejected rewrites",
        *statistics.warnings[2:],
    )
    other_prompts = [Preference("elsewhere", "a", "b", 1.0)]
    assert pair_statistics(1, other_prompts, candidates).num_rewrites == 0


def test_step_windows_reads_each_step_once():
    steps_read = []

    def read_step(step):
        steps_read.append(step)
        words = 10 if step <= 10 else 20
        return make_candidates(1, healthy_scores, num_prompts=2, words=words, seed=step)

    windows = StepWindows(read_step)
    statistics = [windows.ending_at(step) for step in range(1, 22)]
    assert steps_read == list(range(1, 22))
    assert [statistics[i].name for i in (0, 9, 20)] == [
        "grpo, steps 1 to 1",
        "grpo, steps 1 to 10",
        "grpo, steps 12 to 21",
    ]
    assert not any(window.warnings for window in statistics[:19])
    assert "20.0 words on average, 2.00 times" in statistics[19].warnings[0]
    assert StepWindows(read_step).ending_at(21) == statistics[20]


def write_workdir(folder):
    """Two rounds of evolution, two of preferences and twelve GRPO steps."""
    pool = [s.candidate for n in range(3) for s in make_candidates(n, healthy_scores)]
    SegmentFolder(folder / "pool", Candidate).write(pool)
    for n in (1, 2):
        candidates = [s.candidate for s in make_candidates(1, healthy_scores, words=10 * n, seed=n)]
        SegmentFolder(folder / f"round_{n}" / "candidates", Candidate).write(candidates)
        write_jsonl(
            folder / f"round_{n}" / "preferences.jsonl",
            [
                Preference(first.prompt, first.refined, second.refined, 1.0)
                for first, second in zip(candidates[::3], candidates[1::3], strict=True)
            ],
        )
    for n in range(1, 13):
        step = make_candidates(1, healthy_scores, num_prompts=2, seed=n)
        writer = SegmentFolder(folder / "grpo" / "candidates" / f"{n:06d}", Candidate)
        writer.write([s.candidate for s in step])


def test_read_round_statistics_all_stages(tmp_path):
    write_workdir(tmp_path)
    rounds = read_round_statistics(tmp_path, CONFIG)
    assert [statistics.name for statistics in rounds] == [
        "evolve, round 1",
        "evolve, round 2",
        "prefer, round 1",
        "dpo, round 1",
        "prefer, round 2",
        "dpo, round 2",
        "grpo, steps 1 to 10",
        "grpo, steps 3 to 12",
    ]
    assert "20.0 words on average, 2.00 times the 10.0" in rounds[4].warnings[0]
    assert rounds[2].reference == reward_hacking.USER_PROMPTS
    assert rounds[3].reference == reward_hacking.REJECTED_REWRITES
    assert rounds[6].reference == reward_hacking.FIRST_ROUND
    assert rounds[3] == read_pair_statistics(tmp_path, CONFIG, 1)


def test_read_round_statistics_empty_workdir(tmp_path):
    assert read_round_statistics(tmp_path / "empty", CONFIG) == []
    assert read_pair_statistics(tmp_path, CONFIG, 3) is None


def test_read_round_statistics_stage_weights(tmp_path):
    write_workdir(tmp_path)
    config = CONFIG | {"evolve": {"weights": {"AES": 2.0}}, "prefer": {"weights": None}}
    doubled = read_round_statistics(tmp_path, config)
    plain = read_round_statistics(tmp_path, CONFIG)
    assert doubled[0].overall.mean == pytest.approx(2 * plain[0].overall.mean)
    assert doubled[2] == plain[2]
    assert read_round_statistics(tmp_path, {})[0].num_rewrites == 0  # no weights
