"""SIGKILL at random moments of `pav run`, on a disk and on an object store: the same result.

A campaign by hand, which prints how many videos were made again:

    PAV_RANDOM_KILLS=20 pytest -m slow -s -n 0 tests/test_random_kills.py
"""

import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.object_stores import Store

ROOT = pathlib.Path(__file__).parents[1]
NUM_KILLS = int(os.environ.get("PAV_RANDOM_KILLS", "0"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not NUM_KILLS, reason="takes many minutes; set PAV_RANDOM_KILLS"),
]
BATCH_SIZE = 8
OVERRIDES = [
    f"--config.generator.batch_size={BATCH_SIZE}",
    "--config.rounds=1",
    "--config.evaluate.systems=('original','base','sft','dpo_1')",
]
OUTPUTS = ("evaluation.json", "sft_pairs.jsonl", "round_1/preferences.jsonl")
TIMEOUT_S = 900


class Run:
    """`pav run` on a work directory, in a process of its own; its videos are counted."""

    def __init__(self, workdir: str | pathlib.Path, notes: pathlib.Path, environment=None):
        self.workdir = workdir
        self.notes = notes
        self.environment = os.environ | {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        self.environment |= environment or {}

    def start(self) -> subprocess.Popen:
        command = [sys.executable, "-m", "tests.video_counter", str(self.notes), "run"]
        options = ["--config=configs/smoke.py", f"--workdir={self.workdir}", *OVERRIDES]
        return subprocess.Popen(
            command + options,
            cwd=ROOT,
            env=self.environment,
            text=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    def finish(self) -> float:
        """Run to the end; returns the seconds that took."""
        start_time = time.monotonic()
        process = self.start()
        _, errors = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 0, errors[-3000:]
        return time.monotonic() - start_time

    def kill_after(self, seconds: float) -> bool:
        """Kill a run; returns whether it was still running."""
        process = self.start()
        try:
            process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
        assert process.returncode in (0, -signal.SIGKILL)
        return process.returncode != 0

    def num_videos(self) -> int:
        return sum(int(line) for line in self.notes.read_text().splitlines())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """(run, its seconds) on a disk, with compiled programs in the cache."""
    folder = tmp_path_factory.mktemp("undisturbed")
    Run(folder / "first", folder / "first.txt").finish()
    run = Run(folder / "w", folder / "videos.txt")
    return run, run.finish()


def check(undisturbed, make_run, read) -> None:
    """Kill runs at random moments, finish them, and compare them with the undisturbed run."""
    expected, seconds = undisturbed
    rng = np.random.default_rng(16)
    kills = 0
    number = 0
    while kills < NUM_KILLS:
        run = make_run(number)
        kills_of_run = 0
        while kills + kills_of_run < NUM_KILLS and run.kill_after(rng.uniform(0.1, 0.7) * seconds):
            kills_of_run += 1
        run.finish()
        again = run.num_videos() - expected.num_videos()
        print(f"{run.workdir}: {kills_of_run} kills, {again} videos made again")
        assert 0 <= again <= kills_of_run * BATCH_SIZE
        for name in OUTPUTS:
            assert read(run, name) == (expected.workdir / name).read_bytes(), name
        kills += kills_of_run
        number += 1


def test_run_killed_at_random_moments(undisturbed, tmp_path):
    def make_run(number):
        return Run(tmp_path / str(number), tmp_path / f"{number}.txt")

    check(undisturbed, make_run, lambda run, name: (run.workdir / name).read_bytes())


def test_run_killed_at_random_moments_in_object_store(undisturbed, gcs_store: Store, tmp_path):
    from pav_jax.storage.addresses import as_path

    def make_run(number):
        address = f"{gcs_store.address}/random_kills/{number}"
        return Run(address, tmp_path / f"{number}.txt", gcs_store.environment)

    check(undisturbed, make_run, lambda run, name: as_path(f"{run.workdir}/{name}").read_bytes())
