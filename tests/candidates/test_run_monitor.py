"""Limits and checks in a stage that makes videos, with a generator that needs no model."""

import json
import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from pav_jax import config as configuration
from pav_jax.budget import Budget
from pav_jax.candidates.candidate_store import PendingCandidate
from pav_jax.candidates.pool import CandidatePool
from pav_jax.candidates.run_monitor import RunMonitor
from pav_jax.candidates.video_progress import VideoProgress
from pav_jax.errors import BadInput, BudgetReached
from pav_jax.parallel import processes
from tests.fakes import FakeGenerator, FakeSuite

PROMPTS = [f"a cat {i}" for i in range(12)]


class IgnoresPrompts(FakeGenerator):
    def generate(self, prompts, *, seed):
        return super().generate(["same"] * len(prompts), seed=seed)


def score(
    folder,
    *overrides,
    generator=None,
    suite=None,
    prompts=PROMPTS,
    same_prompt=True,
    may_probe=False,
):
    """Make 12 videos in batches of 4; returns the pool."""
    section = configuration.load(None, [f"--config.budget.{o}" for o in overrides]).budget
    budget = Budget(section, folder)
    budget.enter("evolve")
    monitor = RunMonitor(section, budget, {"evolve": 12, "prefer_1": 100})
    pool = CandidatePool(
        generator or FakeGenerator(),
        suite or FakeSuite(),
        folder / "p",
        folder,
        seed=0,
        batch_size=4,
    )
    progress = VideoProgress("evolve", 12, pool, None, may_probe=may_probe, monitor=monitor)
    try:
        pending = [
            PendingCandidate(f"a cat {i % 2}" if same_prompt else text, text, 0, i, (), "user")
            for i, text in enumerate(prompts)
        ]
        for num_finished in pool.score_round(pending, 0):
            progress.advance(num_finished)
        pool.wait_for_processes("evolve")
    finally:
        budget.leave()
    return pool


@pytest.mark.parametrize("limit, made", [(0, 0), (3, 0), (4, 4), (11, 8)])
def test_budget_of_videos_stops_before_a_batch(tmp_path, limit, made):
    for _ in range(2):  # the same command stops again at once
        with pytest.raises(BudgetReached) as caught:
            score(tmp_path, f"videos={limit}")
        assert caught.value.exit_status == 3 and caught.value.field == "budget.videos"
        assert f"stopped at evolve: {made} of 12 videos" in str(caught.value)
    generator = FakeGenerator()
    assert len(score(tmp_path, "videos=12", generator=generator).records) == 12
    assert len(generator.made) == 12 - made


def test_budget_of_hours_stops_before_a_batch(tmp_path):
    with pytest.raises(BudgetReached, match="budget.hours=0 is reached"):
        score(tmp_path, "hours=0")
    assert len(score(tmp_path, "hours=1").records) == 12


@pytest.mark.parametrize(
    "overrides, made",
    [
        (["videos=7"], (0, 0)),
        (["videos=8"], (4, 4)),
        (["videos=11"], (4, 4)),
        (["videos=16"], (12, 4)),
        (["stage_videos={'evolve': 12}"], (8, 4)),
        (["videos=18"], (14, 4)),
    ],
)
def test_budget_stops_all_processes_before_the_same_batch(tmp_path, monkeypatch, overrides, made):
    """Threads stand in for processes; one has 14 videos to make, the other 4."""
    shares = (14, 4)
    numbers = {}
    meet = threading.Barrier(2, timeout=60)

    def sum_of_processes(own):
        numbers[threading.current_thread().name] = own
        meet.wait()
        total = [sum(column) for column in zip(*numbers.values(), strict=True)]
        meet.wait()
        return total

    monkeypatch.setattr(processes, "sum_of_processes", sum_of_processes)

    def run(process):
        prompts = [f"a cat {process} {i}" for i in range(shares[process])]
        generator = FakeGenerator()
        try:
            folder = tmp_path / str(process)
            score(folder, *overrides, generator=generator, prompts=prompts, same_prompt=False)
        except BudgetReached as error:
            return len(generator.made), error
        return len(generator.made), None

    with ThreadPoolExecutor(2) as executor:
        results = list(executor.map(run, range(2)))
    assert tuple(number for number, _ in results) == made
    for process, (_, error) in enumerate(results):
        assert (error is None) == (made == shares)
        spent = json.loads((tmp_path / str(process) / "logs" / "spent.json").read_text())
        assert spent["evolve"]["videos"] == sum(made)


def test_generator_that_ignores_prompts(tmp_path):
    generator = IgnoresPrompts()
    with pytest.raises(BadInput, match="ignores its prompt") as caught:
        score(tmp_path, generator=generator)
    assert not isinstance(caught.value, BudgetReached)
    assert len(generator.batch_sizes) <= 2  # the next batch starts while one is scored
    pool = score(tmp_path, "check_generator=False", "check_rewards=False", generator=generator)
    assert len(pool.records) == 12


@pytest.mark.parametrize("may_probe", [False, True])
def test_generator_that_ignores_prompts_with_a_seed_each(tmp_path, may_probe):
    generator = IgnoresPrompts()
    options = dict(generator=generator, same_prompt=False, may_probe=may_probe)
    if may_probe:
        with pytest.raises(BadInput, match="ignores its prompt"):
            score(tmp_path, **options)
    else:
        score(tmp_path, **options)


def test_probe_makes_one_batch_once(tmp_path):
    generator = FakeGenerator()
    pool = score(tmp_path, generator=generator, same_prompt=False, may_probe=True)
    assert len(generator.batch_sizes) == 4 and len(pool.records) == 12
    score(tmp_path, generator=generator, same_prompt=False, may_probe=True)
    assert len(generator.batch_sizes) == 4


def test_constant_score(tmp_path):
    suite = FakeSuite(value=lambda prompt, text: float(text.split()[-1]))  # TVA is 0
    with pytest.raises(BadInput, match="TVA is 0 for each of the first 8 videos"):
        score(tmp_path, suite=suite)
    assert len(score(tmp_path, "check_rewards=False", suite=suite).records) == 12


def test_estimates(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        score(tmp_path, "usd_per_hour=3600")
    lines = [r.getMessage() for r in caplog.records if r.message.startswith("estimate")]
    assert len(lines) == 2
    assert "4 videos in 0 s with compilation; at most 108 more videos take" in lines[0]
    assert "at most 104 more" in lines[1] and "USD" in lines[1]
    assert np.isfinite(float(lines[1].partition("cost ")[2].partition(" USD")[0]))
