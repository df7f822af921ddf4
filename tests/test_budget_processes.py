"""Two processes with unequal shares of the videos stop before the same batch, and continue."""

import json
import os
import subprocess
import sys

import pytest

from tests.object_stores import free_port
from tests.trust.test_trust import run_trust

pytestmark = pytest.mark.slow
PROGRAM = """
import json, pathlib, sys, types
from pav_jax.parallel import processes
processes.initialize_distributed()
import jax
from pav_jax import budget
from pav_jax.errors import BudgetReached
from pav_jax.parallel.mesh import make_mesh
from pav_jax.train import grpo_trainer
from tests.budgets import limited
from tests.fakes import FakeGenerator
from tests.tiny import language_model as tiny
from tests.train import test_grpo_trainer as test_grpo
from tests.trust import test_trust

folder = pathlib.Path(sys.argv[1])
prompts = folder / "prompts.txt"
lm = tiny.make_lm(make_mesh(2, 1, 1, 1))
grpo_config = test_grpo.make_config(  # 3 prompts a step: two of process 0, one of process 1
    max_steps=2, batch_size=24, save_steps=None
)
grpo_config.generator.batch_size = 4

def run_trust(workdir, generator, progress):
    test_trust.run_trust(workdir, generator, progress=progress)

def run_grpo(workdir, generator, progress):
    suite = test_grpo.make_suite()
    grpo_trainer.run(grpo_config, lm, prompts, generator, suite, workdir / "grpo", progress)

def run(name, stage, *limits):
    work, generator = {
        "trust": (run_trust, test_trust.PatternGenerator()),
        "grpo": (run_grpo, FakeGenerator()),
    }[stage]
    message = ""
    try:
        with limited(folder / name, stage, "check_rewards=False", *limits) as progress:
            work(folder / name, generator, progress)
    except BudgetReached as error:
        message = str(error)
    made = getattr(generator, "made", None) or getattr(generator, "requests", [])
    print(json.dumps([f"{name} {' '.join(limits)}".strip(), len(set(made)), message]), flush=True)

run("trust", "trust", "videos=28")
run("trust", "trust", "videos=36")
if jax.process_index():  # only this one notices that the time is over
    budget.time = types.SimpleNamespace(monotonic=iter(range(0, 10**9, 1000)).__next__)
run("late", "trust", "hours=2")
import time
budget.time = time
run("undisturbed", "grpo")
run("grpo", "grpo", "stage_videos={'grpo': 30}")
run("grpo", "grpo")
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """(work directory, name and limits of a run -> for each process (videos made, message))."""
    folder = tmp_path_factory.mktemp("budgets")
    (folder / "prompts.txt").write_text("\n".join(["a b", "c d e", "f", "g h i j", "k l", "m n"]))
    environment = os.environ | {
        "JAX_COORDINATOR_ADDRESS": f"localhost:{free_port()}",
        "JAX_NUM_PROCESSES": "2",
        "JAX_NUM_CPU_DEVICES": "1",
        "PYTHONPATH": os.getcwd(),
    }
    running = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(folder)],
            env=environment | {"JAX_PROCESS_ID": str(index)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    runs = {}
    for process in running:
        output, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors[-3000:]
        lines = [line for line in output.splitlines() if line.startswith('["')]
        for name, made, message in map(json.loads, lines):
            runs.setdefault(name, []).append((made, message))
    return folder, runs


def test_limit_of_videos_stops_all_processes(results):
    (first, said), (second, other_said) = results[1]["trust videos=28"]
    assert (first, second) == (12, 12) and said == other_said
    assert said.startswith(
        "budget.videos=28 is reached (24 made, the next batch has 8); stopped at"
    )
    spent = json.loads((results[0] / "trust" / "logs" / "spent.json").read_text())
    assert spent["trust"]["videos"] == 36


def test_larger_limit_gives_the_result_of_one_process(results, tmp_path):
    assert results[1]["trust videos=36"] == [(8, ""), (4, "")]
    run_trust(tmp_path)
    names = (tmp_path, results[0] / "trust")
    assert len({(folder / "trust.json").read_bytes() for folder in names}) == 1


def test_limit_of_time_in_one_process_stops_all(results):
    (first, said), (second, other_said) = results[1]["late hours=2"]
    assert first == second < 16
    assert said.startswith("a limit of hours or money is reached in another process; stopped at")
    assert other_said.startswith("budget.hours=2 is reached (")


def test_grpo_stopped_within_a_step_continues(results):
    folder, runs = results
    (first, said), (second, _) = runs["grpo stage_videos={'grpo': 30}"]
    assert 16 <= first + second <= 30 and "stopped at grpo, step 2: " in said
    total = sum(made for made, _ in runs["undisturbed"])
    assert first + second + sum(made for made, _ in runs["grpo"]) == total
    metrics = [
        [
            {name: row[name] for name in ("step", "loss", "reward", "kl")}
            for row in map(json.loads, (folder / run / "grpo" / "metrics.jsonl").open())
        ]
        for run in ("grpo", "undisturbed")
    ]
    assert metrics[0] == metrics[1] and len(metrics[0]) == 2
    files = [
        folder / run / "grpo" / "booster" / "model.safetensors" for run in ("grpo", "undisturbed")
    ]
    assert files[0].read_bytes() == files[1].read_bytes()
