"""The launch, rehearsed: create, set up, run, lose a host in the middle, resume, stop."""

import shutil

import pytest

from tests.campaigns import by_hand
from tests.launch.rehearsal import Rehearsal, wait_for

pytestmark = [
    pytest.mark.slow,
    by_hand,
    pytest.mark.skipif(not shutil.which("tmux"), reason="needs tmux"),
]
SMOKE = [  # with less to do
    "pav",
    "run",
    "--config=smoke",
    "--config.rounds=1",
    "--config.evaluate.max_prompts=2",
    "--config.evaluate.systems=('original','base','sft','dpo_1')",
]
LIMIT_S = 900  # of what takes a minute or two on an idle machine


@pytest.fixture
def rehearsal(tmp_path):
    rehearsal = Rehearsal(tmp_path, tmp_path / "bucket")
    yield rehearsal
    rehearsal.close()


def run_by_hand(rehearsal, workdir):
    """The commands of launch/README.md, one by one."""
    assert rehearsal.run("status.sh") == "NOT_FOUND\n"
    rehearsal.run("create.sh")
    wait_for(lambda: rehearsal.run("status.sh") == "ACTIVE gone\n", 60)
    rehearsal.run("setup.sh")
    rehearsal.run("run.sh", *SMOKE, f"--workdir={workdir}")
    wait_for(lambda: rehearsal.run("status.sh") != "ACTIVE running\n", LIMIT_S)
    assert rehearsal.run("status.sh") == "ACTIVE 0\n", rehearsal.logs()
    rehearsal.run("stop.sh")
    assert rehearsal.run("status.sh") == "NOT_FOUND\n"


def test_launch_preempted_host(rehearsal, tmp_path):
    bucket = tmp_path / "bucket"
    undisturbed = bucket / "runs/undisturbed"
    preempted = bucket / "runs/preempted"
    run_by_hand(rehearsal, undisturbed)
    watch = rehearsal.start("watch.sh", *SMOKE, f"--workdir={preempted}")
    wait_for(lambda: (preempted / "round_1/candidates").exists(), LIMIT_S, watch)
    rehearsal.preempt("pav-1")
    _, stderr = watch.communicate(timeout=LIMIT_S)
    assert watch.returncode == 0, stderr + rehearsal.logs()
    assert "PREEMPTED, creating it again" in stderr
    names = ("evaluation.json", "round_1/preferences.jsonl")
    for name in names:
        assert (undisturbed / name).read_bytes() == (preempted / name).read_bytes(), name
    for node in ("pav-0", "pav-1"):
        assert "exit status 0" in (bucket / f"logs/pav/{node}.log").read_text()
    assert list((bucket / "jax_cache").iterdir())
