"""The whole recipe as two processes of four devices each: what one process finds, they find."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

from pav_jax.records import Candidate
from pav_jax.storage.records import read_segments

ROOT = pathlib.Path(__file__).parents[1]
pytestmark = pytest.mark.slow
OVERRIDES = [f"--config.{stage}.batch_size=8" for stage in ("sft", "dpo", "grpo")] + [
    "--config.sft.max_steps=3",
    "--config.dpo.max_steps=2",
    "--config.grpo.max_steps=2",
    "--config.evaluate.max_prompts=2",
    "--config.rounds=1",
    "--config.evaluate.systems=('original','base','sft','dpo_1')",
]


def start(command: str, workdir: pathlib.Path, count: int) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    env = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "4", "PYTHONPATH": str(ROOT)}
    env.pop("XLA_FLAGS", None)
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
