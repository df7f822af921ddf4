"""The recipe and the commands on gs:// and s3://: what a disk gives, killed or not, they give."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from tests import object_stores
from tests.campaigns import by_hand

ROOT = pathlib.Path(__file__).parents[1]
pytestmark = [pytest.mark.slow, by_hand]
TIMEOUT_S = 1500
OVERRIDES = [f"--config.{stage}.batch_size=8" for stage in ("sft", "dpo")] + [
    "--config.sft.max_steps=4",
    "--config.dpo.max_steps=4",
    "--config.evolve.rounds=1",
    "--config.evaluate.max_prompts=2",
    "--config.rounds=1",
    "--config.evaluate.systems=('original','base','sft','dpo_1')",
]
# stage -> (start of the objects' names below the work directory, which of these writes is last)
KILLS = {
    "evolve": ("pool/0-", 2),
    "select": ("sft_pairs.jsonl", 1),
    "sft, a checkpoint": ("sft/checkpoints/4", 3),
    "sft, the booster": ("sft/booster/", 3),
    "prefer": ("round_1/candidates/0-", 2),
    "dpo": ("round_1/checkpoints/2", 3),
    "evaluate": ("evaluation/candidates/0-", 2),
    "report": ("report/index.html", 1),
}


def start(command, environment, *options, processes=1):
    """Start `pav`, as one or several processes of a program."""
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "2", "PYTHONPATH": str(ROOT)} | environment
    environment |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    if processes > 1:
        environment["JAX_COORDINATOR_ADDRESS"] = f"localhost:{object_stores.free_port()}"
        environment["JAX_NUM_PROCESSES"] = str(processes)
    return [
        subprocess.Popen(
            [sys.executable, "-m", "pav_jax.main", command, *options],
            cwd=ROOT,
            env=environment | ({"JAX_PROCESS_ID": str(index)} if processes > 1 else {}),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for index in range(processes)
    ]


def finish(processes, status=0):
    """Wait for the processes; return the standard output and error of the first."""
    answers = [process.communicate(timeout=TIMEOUT_S) for process in processes]
    for process, (_, errors) in zip(processes, answers, strict=True):
        assert process.returncode == status, errors[-3000:]
    return answers[0]


def recipe(workdir, environment, processes=1):
    return start(
        "run",
        environment,
        "--config=smoke",
        f"--workdir={workdir}",
        *OVERRIDES,
        processes=processes,
    )


@pytest.fixture(scope="module")
def stores():
    """Name -> an object store that is running."""
    with contextlib.ExitStack() as stack:
        yield {n: stack.enter_context(make()) for n, make in object_stores.STORES.items()}


def read(store, path):
    """The content of an object below the bucket."""
    with object_stores.environment(store.environment):
        from pav_jax.storage.addresses import as_path

        return as_path(f"{store.address}/{path}").read_bytes()


def names(store, path):
    with object_stores.environment(store.environment):
        from pav_jax.storage.addresses import filesystem

        paths = filesystem(store.address).find(f"{store.address}/{path}")
        return {name.partition(f"/{path}/")[2] for name in paths}


@pytest.fixture(scope="module", params=[1, 2])
def disk(request, tmp_path_factory):
    """(number of processes, work directory) of a finished run on a disk."""
    workdir = tmp_path_factory.mktemp("disk") / "w"
    finish(recipe(workdir, {}, request.param))
    return request.param, workdir


@pytest.mark.parametrize("name", object_stores.STORES)
def test_run_in_object_store(disk, stores, name, tmp_path):
    processes, workdir = disk
    store = stores[name]
    path = f"runs/{processes}"
    scratch = {"PAV_SCRATCH": str(tmp_path)}
    store.proxy.requests.clear()
    _, errors = finish(recipe(f"{store.address}/{path}", store.environment | scratch, processes))
    for file in ("evaluation.json", "sft_pairs.jsonl", "round_1/preferences.jsonl"):
        assert read(store, f"{path}/{file}") == (workdir / file).read_bytes()
    weights = "round_1/booster/model.safetensors"
    assert read(store, f"{path}/{weights}") == (workdir / weights).read_bytes()
    adapter = "round_1/adapter/adapter_config.json"
    assert read(store, f"{path}/{adapter}") == (workdir / adapter).read_bytes()
    assert "bucket type" not in errors and "Traceback" not in errors
    assert not list(tmp_path.iterdir())  # the scratch folder is removed
    on_disk = {p.relative_to(workdir).as_posix() for p in workdir.rglob("*") if p.is_file()}
    missing = {n for n in on_disk - names(store, path) if "checkpoints/" not in n}
    assert not missing
    assert not [folder for folder in ("gs:", "s3:") if (ROOT / folder).exists()]
    lists = [p for m, p in store.proxy.requests if "prefix=" in p and "%2Fpool%2F&" in p]
    # evolve, its proposals, select, prefer, dpo and report read the pool
    assert len(lists) <= 8 * processes


@pytest.mark.parametrize("name", object_stores.STORES)
def test_run_killed_in_every_stage_in_object_store(disk, stores, name):
    processes, workdir = disk
    store = stores[name]
    path = f"killed/{processes}"
    for place, (prefix, count) in KILLS.items():
        writes = []
        running = recipe(f"{store.address}/{path}", store.environment, processes)

        def kill(name, prefix=prefix, count=count, writes=writes, running=running):
            if name.startswith(f"{path}/{prefix}"):
                writes.append(name)
                if len(writes) == count:
                    for process in running:
                        process.send_signal(signal.SIGKILL)

        store.proxy.on_write = kill
        answers = [process.communicate(timeout=TIMEOUT_S) for process in running]
        statuses = {process.returncode for process in running}
        assert statuses == {-signal.SIGKILL}, f"{place}: {answers[0][1][-3000:]}"
    store.proxy.on_write = lambda name: None
    finish(recipe(f"{store.address}/{path}", store.environment, processes))
    expected = (workdir / "evaluation.json").read_bytes()
    assert read(store, f"{path}/evaluation.json") == expected


@pytest.mark.parametrize("name", object_stores.STORES)
def test_commands_in_object_store(stores, name, tmp_path):
    store = stores[name]
    address = f"{store.address}/commands"
    environment = store.environment | {"PAV_SCRATCH": str(tmp_path)}

    def pav(command, *options):
        return finish(start(command, environment, *options))[0]

    with object_stores.environment(store.environment):
        from pav_jax.storage.files import write_atomic

        write_atomic(f"{address}/prompts.txt", b"a red ball\na blue star\n")
    pav("export", "--from=mini:rewriter", "--to=hf", f"--out={address}/model")
    texts = {
        pav("refine", f"{address}/prompts.txt", f"--model={address}/model"),
        pav("refine", "a red ball", "a blue star", f"--model={address}/model"),
    }
    assert len(texts) == 1 and texts.pop().count("\n") == 2
    videos = pav("generate", f"{address}/prompts.txt", f"--out={address}/videos").split()
    assert len(videos) == 2 and all(video.startswith(f"{address}/videos/") for video in videos)
    scored = pav("score", *videos, f"--prompts={address}/prompts.txt", "--json", "--no-cache")
    assert [json.loads(line)["video"] for line in scored.splitlines()] == videos
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "options",
    [
        ("run", "--config=smoke", "--workdir={scheme}://missing/w"),
        ("run", "--config=smoke", "--workdir=abc://bucket/w"),
        ("sft", "--workdir={scheme}://missing/w"),
        ("refine", "{scheme}://missing/prompts.txt"),
        ("refine", "a cat", "--model={scheme}://missing/model"),
        ("report", "--workdir={scheme}://missing/w"),
    ],
)
@pytest.mark.parametrize("name", object_stores.STORES)
@pytest.mark.parametrize("status", [404, 403])
def test_bucket_that_refuses_is_one_line(stores, name, options, status):
    store = stores[name]
    if status == 403:
        store.proxy.fault = lambda method, path: 403 if "missing" in path else None
    command, *rest = (word.format(scheme=name) for word in options)
    _, errors = finish(start(command, store.environment, *rest), status=2)
    store.proxy.fault = object_stores.no_fault
    lines = [line for line in errors.splitlines() if "no --model given" not in line]
    assert len(lines) == 1 and lines[0].startswith(f"pav {command}: "), errors
