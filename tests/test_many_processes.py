"""The whole recipe as two processes of two devices each: what one process finds, they find."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from pav_jax.records import Candidate
from pav_jax.storage.records import read_segments
from tests.campaigns import IS_REQUESTED, by_hand
from tests.recipe_options import FEW_PROMPTS, ONE_REWARD

ROOT = pathlib.Path(__file__).parents[1]
pytestmark = pytest.mark.slow
OVERRIDES = [f"--config.{stage}.batch_size=8" for stage in ("sft", "dpo", "grpo")] + [
    "--config.sft.max_steps=3",
    "--config.dpo.max_steps=2",
    "--config.grpo.max_steps=2",
    "--config.rounds=1",
    "--config.evolve.rounds=1",
    *FEW_PROMPTS,
    *([] if IS_REQUESTED else ONE_REWARD),
    "--config.evaluate.systems=('original','dpo_1')",
]


def start(command: str, workdir: pathlib.Path, count: int) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    env = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "2", "PYTHONPATH": str(ROOT)}
    # the second command finds all programs of the first
    env["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    many = (
        {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(count)} if count > 1 else {}
    )
    line = [
        sys.executable,
        "-m",
        "pav_jax.main",
        command,
        f"--config={ROOT}/configs/smoke.py",
        f"--workdir={workdir}",
        *OVERRIDES,
    ]
    return [
        subprocess.Popen(
            line,
            env=env | many | ({"JAX_PROCESS_ID": str(i)} if many else {}),
            text=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory):
    """(of one process, of two), after `pav run` and `pav grpo`."""
    folders = []
    for count in (1, 2):
        folder = tmp_path_factory.mktemp(f"processes_{count}")
        for command in ("run", "grpo"):
            for process in start(command, folder, count):
                _, errors = process.communicate(timeout=600)
                assert process.returncode == 0, errors
        folders.append(folder)
    return folders


@pytest.mark.parametrize("folder", ["pool", "round_1/candidates", "grpo/candidates/000001"])
def test_the_same_candidates_with_the_same_scores(workdirs, folder):
    single, double = ({c.key: c for c in read_segments(w / folder, Candidate)} for w in workdirs)
    assert single.keys() == double.keys() and len(single) >= 8
    for key, candidate in single.items():
        assert candidate.scores == pytest.approx(
            double[key].scores, abs=2e-2
        )  # of pixels rounded to whole levels


def test_both_processes_made_videos(workdirs):
    names = {p.name.partition("-")[0] for p in (workdirs[1] / "pool").glob("*.jsonl")}
    assert names == {"0", "1"}


@pytest.mark.parametrize("stage", ["sft", "round_1", "grpo"])
def test_the_same_losses(workdirs, stage):
    curves = [
        [
            json.loads(line)["loss"]
            for line in (w / stage / "metrics.jsonl").read_text().splitlines()
        ]
        for w in workdirs
    ]
    np.testing.assert_allclose(*curves, atol=1e-3 if stage == "grpo" else 1e-4)


def test_the_same_evaluation(workdirs):
    single, double = (json.loads((w / "evaluation.json").read_text())["sets"] for w in workdirs)
    for name in single:
        for system, row in single[name]["systems"].items():
            assert row["overall"] == pytest.approx(
                double[name]["systems"][system]["overall"], abs=2e-2
            ), system
    assert all((w / "report" / "index.html").exists() for w in workdirs)


# stage -> (command, a file that appears when some of the stage's work is done and some is not, the
# process that is killed then)
KILLS = {
    "evolve": ("run", "pool/*.jsonl", 1),
    "sft": ("run", "sft/checkpoints/[0-9]*", 0),
    "prefer": ("run", "round_1/candidates/*.jsonl", 0),
    "dpo": ("run", "round_1/training.json", 1),
    "evaluate": ("run", "evaluation/*", 1),
    "grpo": ("grpo", "grpo/candidates/*", 0),
}


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """(work directory, stage -> (status, seconds, standard error) of the process that was left)."""
    workdir = tmp_path_factory.mktemp("killed")
    survivors = {}
    for stage, (command, sign, victim) in KILLS.items():
        processes = start(command, workdir, 2)
        other = processes[1 - victim]
        while other.poll() is None and not any(workdir.glob(sign)):
            time.sleep(0.01)
        processes[victim].send_signal(signal.SIGKILL)
        start_time = time.monotonic()
        _, errors = other.communicate(timeout=90)
        survivors[stage] = other.returncode, time.monotonic() - start_time, errors
        processes[victim].communicate()
    for command in ("run", "grpo"):
        for process in start(command, workdir, 2):
            _, errors = process.communicate(timeout=600)
            assert process.returncode == 0, errors
    return workdir, survivors


@by_hand
@pytest.mark.parametrize("stage", KILLS)
def test_process_lost_ends_the_other(stage, killed):
    status, seconds, errors = killed[1][stage]
    command, _, victim = KILLS[stage]
    assert status == 1, errors
    assert seconds < 60
    # the stage may say meanwhile how far it came
    (line,) = [line for line in errors.splitlines()[-2:] if "is gone" in line]
    assert line.startswith(f"pav {command}: process {victim} on host "), errors
    assert errors.count("is gone") == 1
    assert "Traceback" not in errors and "Check failure" not in errors and " @ " not in errors


@by_hand
@pytest.mark.parametrize(
    "name", ["evaluation.json", "round_1/preferences.jsonl", "sft_pairs.jsonl"]
)
def test_process_lost_same_result(name, killed, workdirs):
    assert (killed[0] / name).read_bytes() == (workdirs[1] / name).read_bytes()


@by_hand
@pytest.mark.parametrize("stage", ["sft", "round_1", "grpo"])
def test_process_lost_same_losses(stage, killed, workdirs):
    curves = [
        [
            json.loads(line)["loss"]
            for line in (w / stage / "metrics.jsonl").read_text().splitlines()
        ]
        for w in (killed[0], workdirs[1])
    ]
    np.testing.assert_allclose(*curves, rtol=1e-6)
