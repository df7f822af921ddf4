"""Two processes of two devices train as one process does, neither outlives the other, and any
number can go on."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from pav_jax.parallel.peers import EXIT_LOST_PEER
from tests.tiers import first_slow
from tests.tiny import language_model as tiny
from tests.train import test_dpo_trainer as test_dpo
from tests.train import test_sft_trainer as test_sft

PROGRAM = """
import functools, pathlib, sys
from pav_jax.parallel import processes
from pav_jax.parallel import sharding_rules
processes.initialize_distributed()
import jax
from pav_jax.checkpoints import folder as folders
from pav_jax.checkpoints.safetensors import TensorFolder
from pav_jax.models.decoder import hf
from pav_jax.parallel.mesh import make_mesh
from pav_jax.train import dpo_trainer as dpo
from pav_jax.train import sft_trainer as sft
from tests.tiny import language_model as tiny
from tests.train import test_dpo_trainer as test_dpo, test_sft_trainer as test_sft
folder = pathlib.Path(sys.argv[1])
steps = int(sys.argv[2])
mesh = [int(n) for n in sys.argv[3].split("x")]
assert jax.device_count() == 4
lm = tiny.make_lm(make_mesh(*mesh))
read, part = [], TensorFolder.part
TensorFolder.part = lambda *about: read.append(part(*about)) or read[-1]
sharding = functools.partial(sharding_rules.sharding, mesh=make_mesh(fsdp=4))
_, base = folders.load(hf, folder / "base", "float32", sharding)
print(sum(p.size for p in read) / sum(p.size for p in jax.tree.leaves(base)), flush=True)
common = dict(max_steps=steps, save_steps=2, batch_size=8, logging_steps=1)
config = test_sft.make_config(**common, length_buckets=(16, 24))
sft.run(config, lm, folder / "sft_pairs.jsonl", folder / "sft")
config = test_dpo.make_config(
    **common, gradient_accumulation_steps=2, lora=dict(r=4), precompute_ref_log_probs=True
)
dpo.run(config, lm, folder / "preferences.jsonl", folder / "dpo")
"""


def start(folder, steps, count=2, mesh="2x2x1x1"):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    env = os.environ | {
        "JAX_COORDINATOR_ADDRESS": address,
        "JAX_NUM_PROCESSES": str(count),
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(4 // count),
        "PYTHONPATH": os.getcwd(),
    }
    return [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(folder), str(steps), mesh],
            text=True,
            env=env | {"JAX_PROCESS_ID": str(i)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for i in range(count)
    ]


def losses(folder):
    return [
        json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()
    ]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """(folder with the data, losses by stage) of one process on one device."""
    from pav_jax.train import dpo_trainer as dpo
    from pav_jax.train import sft_trainer as sft

    folder = tmp_path_factory.mktemp("alone")
    pairs = tiny.write_pairs(folder / "sft_pairs.jsonl")
    preferences = tiny.write_preferences(folder / "preferences.jsonl")
    common = dict(max_steps=3, save_steps=None, batch_size=8)
    sft.run(test_sft.make_config(**common), tiny.make_lm(), pairs, folder / "sft")
    dpo.run(
        test_dpo.make_config(**common, lora=dict(r=4)), tiny.make_lm(), preferences, folder / "dpo"
    )
    return folder, {stage: losses(folder / stage) for stage in ("sft", "dpo")}


def copy_data(alone, folder):
    for name in ("sft_pairs.jsonl", "preferences.jsonl"):
        (folder / name).write_bytes((alone[0] / name).read_bytes())
    tiny.make_lm().save_pretrained(folder / "base")


def wait_for_steps(process, folder, count):
    """Wait until `process` has written the metrics of `count` steps, or has ended."""
    metrics = folder / "metrics.jsonl"
    while process.poll() is None and (
        not metrics.exists() or len(metrics.read_text().splitlines()) < count
    ):
        time.sleep(0.01)


@pytest.mark.slow
def test_run_two_processes(alone, tmp_path):
    copy_data(alone, tmp_path)
    for process in start(tmp_path, 3):
        said, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        assert 0.5 <= float(said.split()[0]) < 0.51  # norms are whole everywhere
    for stage, want in alone[1].items():
        np.testing.assert_allclose(losses(tmp_path / stage), want, atol=1e-4)
        assert (tmp_path / stage / "booster" / "model.safetensors").exists()


@pytest.mark.slow
def test_run_resumed_after_process_failure(alone, tmp_path):
    copy_data(alone, tmp_path)
    first, second = start(tmp_path, 12)
    wait_for_steps(first, tmp_path / "sft", 4)
    second.send_signal(signal.SIGKILL)
    assert first.wait(timeout=90) != 0  # and does not wait for ever
    before = losses(tmp_path / "sft")
    assert 4 <= len(before) < 12 and any((tmp_path / "sft" / "checkpoints").iterdir())
    shutil.copytree(tmp_path, copy := tmp_path.with_name("copy"))
    for folder, how in ((tmp_path, {}), (copy, dict(count=1, mesh="1x2x2x1"))):
        for process in start(folder, 12, **how):
            _, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors
            assert "incomplete or corrupt checkpoint" not in errors
    after = losses(tmp_path / "sft")
    assert len(after) == 12
    np.testing.assert_allclose(after[:4], before[:4], atol=1e-4)
    # one process on another mesh, from the checkpoints of two
    for stage in ("sft", "dpo"):
        np.testing.assert_allclose(losses(copy / stage), losses(tmp_path / stage), atol=1e-4)


@pytest.mark.slow
def test_run_sigterm_outside_of_training(alone, tmp_path):
    copy_data(alone, tmp_path)
    first, second = start(tmp_path, 4000)
    assert second.stdout.readline()  # before the first training
    second.send_signal(signal.SIGTERM)
    assert second.wait(timeout=90) == -signal.SIGTERM
    assert first.wait(timeout=90) == EXIT_LOST_PEER


@pytest.mark.slow
@pytest.mark.parametrize("receivers", first_slow([((0, 1),), ((1,),), ((0,),)]))
def test_run_sigterm_stops_all_after_the_same_step(alone, tmp_path, receivers):
    copy_data(alone, tmp_path)
    processes = start(tmp_path, 4000)
    wait_for_steps(processes[0], tmp_path / "sft", 6)
    for index in receivers:
        processes[index].send_signal(signal.SIGTERM)
    errors = [process.communicate(timeout=300)[1] for process in processes]
    step = max(int(path.name) for path in (tmp_path / "sft" / "checkpoints").iterdir())
    for process, text in zip(processes, errors, strict=True):
        assert process.returncode == 143, text
        assert f"stopped by SIGTERM; saved at step {step} of 4000" in text
