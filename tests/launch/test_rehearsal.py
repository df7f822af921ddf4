"""The launch, rehearsed: create, set up, run, lose a host in the middle, resume, stop."""

import json
import os
import shutil
import threading
import urllib.parse
import urllib.request

import pytest

from tests import object_stores
from tests.launch.rehearsal import Rehearsal, wait_for
from tests.recipe_options import FEW_PROMPTS, ONE_REWARD

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("tmux"), reason="tmux is not installed"),
]
SMOKE = [  # with less to do, and one reward that needs a model
    "pav",
    "run",
    "--config=smoke",
    "--config.rounds=1",
    "--config.evolve.rounds=1",
    "--config.evolve.num_rewrites=1",
    "--config.prefer.num_return_sequences=2",
    "--config.evaluate.controls=False",
    "--config.evaluate.systems=('original','dpo_1')",
    "--config.sft.max_steps=2",
    *ONE_REWARD,
    *FEW_PROMPTS,
]
LIMIT_S = 3000  # of what takes a minute or two on an idle machine
# The first of these objects is written when DPO has saved step 2 and is about to save step 4.
MIDDLE = "round_1/checkpoints/4"


class Bucket:
    """A folder of an emulated bucket, read over HTTP."""

    def __init__(self, store: object_stores.Store):
        self.address = f"{store.address}/pav"
        self._objects = f"{store.environment['STORAGE_EMULATOR_HOST']}/storage/v1/b/bucket/o"

    def names(self, folder: str) -> list[str]:
        query = urllib.parse.urlencode({"prefix": f"pav/{folder}/"})
        with urllib.request.urlopen(f"{self._objects}?{query}", timeout=60) as answer:
            names = [item["name"] for item in json.load(answer).get("items", [])]
        return [name.removeprefix("pav/") for name in names]

    def read(self, name: str) -> str:
        path = urllib.parse.quote(f"pav/{name}", safe="")
        with urllib.request.urlopen(f"{self._objects}/{path}?alt=media", timeout=60) as answer:
            return answer.read().decode()


@pytest.fixture
def store():
    with object_stores.gcs() as store:
        yield store


@pytest.fixture
def rehearsal(tmp_path, store):
    environment = store.environment | {
        "XLA_FLAGS": os.environ["XLA_FLAGS"],
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3",
    }
    rehearsal = Rehearsal(tmp_path, Bucket(store).address, environment)
    yield rehearsal
    rehearsal.close()


def run_by_hand(rehearsal, workdir):
    """The commands of launch/README.md, one by one; the TPU stays."""
    assert rehearsal.run("status.sh") == "NOT_FOUND\n"
    rehearsal.run("create.sh")
    wait_for(lambda: rehearsal.run("status.sh") == "ACTIVE gone\n", 60)
    rehearsal.run("setup.sh")
    rehearsal.run("run.sh", *SMOKE, f"--workdir={workdir}")
    wait_for(lambda: rehearsal.run("status.sh") != "ACTIVE running\n", LIMIT_S)
    assert rehearsal.run("status.sh") == "ACTIVE 0\n", rehearsal.messages()


def watch_with_preemption(rehearsal, workdir, store):
    """`watch.sh`, while a host is lost in the middle.

    Returns:
      The objects that were written since.
    """
    is_lost = threading.Event()
    names = []

    def lose_host(name):
        if is_lost.is_set():
            names.append(name)
        elif MIDDLE in name:
            is_lost.set()
            rehearsal.preempt("pav-1")

    store.proxy.on_write = lose_host
    watch = rehearsal.start("watch.sh", *SMOKE, f"--workdir={workdir}")
    watch.communicate(timeout=LIMIT_S)
    assert watch.returncode == 0, rehearsal.messages()
    return names


def test_launch_preempted_host(rehearsal, store):
    bucket = Bucket(store)
    run_by_hand(rehearsal, f"{bucket.address}/runs/undisturbed")
    names = watch_with_preemption(rehearsal, f"{bucket.address}/runs/preempted", store)
    assert any(MIDDLE in name for name in names)
    again = ("/pool/", "/sft/", "/round_1/candidates/", "/round_1/checkpoints/2/")
    assert not any(part in name for name in names for part in again)
    rehearsal.run("stop.sh")
    assert rehearsal.run("status.sh") == "NOT_FOUND\n"
    assert rehearsal.effects() == ["create", "delete", "create", "delete a healthy TPU"]

    for name in ("sft_pairs.jsonl", "round_1/preferences.jsonl", "evaluation.json"):
        undisturbed, preempted = (
            bucket.read(f"runs/{run}/{name}") for run in ("undisturbed", "preempted")
        )
        assert undisturbed == preempted, name
    logs = [bucket.read(name) for name in bucket.names("logs/pav")]
    assert len(logs) == 4  # two hosts, and two new ones
    assert all("exit status 0\n" in log for log in logs)
    assert not any("bucket type" in log for log in logs)
    assert bucket.names("jax_cache")
