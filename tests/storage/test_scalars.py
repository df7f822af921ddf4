import logging
import os
import pathlib
import subprocess
import sys

import pytest

from pav_jax.storage import scalars
from pav_jax.storage.addresses import as_path, list_names
from pav_jax.storage.folders import local_copy
from pav_jax.storage.scalars import FILE, ScalarLog, read_events
from tests.object_stores import free_port, no_fault

ROOT = pathlib.Path(__file__).parents[2]


def points(folder):
    """(tag, step, value) of all points, in the order of the file."""
    events = list(read_events((folder / FILE).read_bytes()))
    assert events[0].file_version == "brain.Event:2"
    return [(v.tag, e.step, v.simple_value) for e in events for v in e.summary.value]


def write(folder, *steps, keep_until=None):
    log = ScalarLog(folder)
    if keep_until is not None:
        log.keep_until(keep_until)
    for step in steps:
        log.add(step, {"loss": step / 2})
        log.flush()
    log.close()


def test_add_values_that_are_numbers(tmp_path):
    log = ScalarLog(tmp_path / "logs" / "sft")
    log.add(3, {"loss": 1.5, "mfu": None, "reward": float("nan"), "kl": float("inf")})
    log.close()
    assert points(tmp_path / "logs" / "sft") == [("loss", 3, 1.5)]


def test_add_point_twice(tmp_path):
    write(tmp_path, 1, 2)
    write(tmp_path, 1, 2, 3)
    assert points(tmp_path) == [("loss", 1, 0.5), ("loss", 2, 1.0), ("loss", 3, 1.5)]
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_keep_until_earlier_step(tmp_path):
    write(tmp_path, 1, 2, 3)
    before = list(read_events((tmp_path / FILE).read_bytes()))
    write(tmp_path, 2, keep_until=1)
    assert points(tmp_path) == [("loss", 1, 0.5), ("loss", 2, 1.0)]
    after = list(read_events((tmp_path / FILE).read_bytes()))
    assert after[:2] == before[:2]  # with the times of the first run


@pytest.mark.parametrize("lost", [1, 5, 30, 45])
def test_file_cut_off_by_a_kill(tmp_path, lost):
    write(tmp_path, 1, 2, 3)
    data = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(data[:-lost])
    write(tmp_path, 1, 2, 3)
    assert points(tmp_path) == [("loss", 1, 0.5), ("loss", 2, 1.0), ("loss", 3, 1.5)]


def test_corrupt_file_is_written_again(tmp_path):
    (tmp_path / FILE).write_bytes(os.urandom(200))
    write(tmp_path, 1)
    assert points(tmp_path) == [("loss", 1, 0.5)]


def test_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(None, 1, keep_until=0)
    ScalarLog(tmp_path / "unused").close()
    assert not list(tmp_path.iterdir())


def test_unwritable_folder(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        write(tmp_path / "file" / "logs", 1, 2, 3)
    assert caplog.text.count("no more scalars for TensorBoard") == 1


def test_file_that_cannot_be_opened(tmp_path, caplog):
    (tmp_path / FILE).mkdir()
    with caplog.at_level(logging.WARNING):
        write(tmp_path, 1, 2, keep_until=1)
    assert caplog.text.count("no more scalars for TensorBoard") == 1


def test_upload_interval(tmp_path, monkeypatch):
    monkeypatch.setattr(scalars, "is_remote", lambda path: True)
    uploads = []
    monkeypatch.setattr(scalars, "write_atomic", lambda path, data: uploads.append(data))
    log = ScalarLog(tmp_path)
    for step in range(10):
        log.add(step, {"loss": 1.0})
        log.flush()
    assert len(uploads) == 1
    log.close()
    log.close()
    assert len(uploads) == 2 and len(list(read_events(uploads[-1]))) == 11


def test_file_as_tensorboard_reads_it(tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    write(tmp_path, 1, 2)
    accumulator = reader.EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, e.value) for e in accumulator.Scalars("loss")] == [(1, 0.5), (2, 1.0)]


@pytest.mark.slow
def test_file_in_object_store(store, tmp_path):
    folder = as_path(f"{store.address}/{tmp_path.name}/logs/sft")
    write(folder, 1, 2)
    write(folder, 2, 3, 4, keep_until=3)
    assert [step for _, step, _ in points(folder)] == [1, 2, 3, 4]
    assert list_names(folder) == [FILE]
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    local = local_copy(folder)
    accumulator = reader.EventAccumulator(str(local)).Reload()
    assert [(e.step, e.value) for e in accumulator.Scalars("loss")] == [
        (step, step / 2) for step in (1, 2, 3, 4)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("fault", [403, None])
def test_file_that_cannot_be_read_is_kept(store, tmp_path, caplog, fault):
    folder = as_path(f"{store.address}/{tmp_path.name}/logs")
    write(folder, 1, 2)
    if fault is None:  # it cannot be written
        store.proxy.fault = lambda method, path: None if method in ("GET", "HEAD") else 403
    else:
        store.proxy.fault = lambda method, path: fault
    with caplog.at_level(logging.WARNING):
        write(folder, 3, 4, keep_until=2)
    store.proxy.fault = no_fault
    assert caplog.text.count("no more scalars for TensorBoard") == 1
    assert [step for _, step, _ in points(folder)] == [1, 2]


PROGRAM = """
import sys
import jax
from pav_jax.parallel import processes
from pav_jax.progress import Progress
from pav_jax.storage.addresses import as_path
from pav_jax.train.step_report import StepReport
processes.initialize_distributed("toy")
workdir = as_path(sys.argv[1])
with Progress(is_shown=jax.process_index() == 0, logs=workdir / "logs") as progress:
    for folder in ("sft", "round_2"):
        scalars = StepReport(folder[:3], 9, progress, workdir / folder).scalars
        for step in range(int(sys.argv[2]), int(sys.argv[3])):
            processes.barrier(f"{folder} {step}")
            scalars.add(step, {"loss": step / 2, "process": jax.process_index()})
            scalars.flush()
processes.leave(0)
"""


@pytest.mark.slow
def test_two_processes_in_object_store(store, tmp_path):
    workdir = f"{store.address}/{tmp_path.name}"
    writes = []
    store.proxy.on_write = writes.append
    for first, last in ((1, 4), (3, 7)):
        coordinator = f"localhost:{free_port()}"
        running = [
            subprocess.Popen(
                [sys.executable, "-c", PROGRAM, workdir, str(first), str(last)],
                env=os.environ
                | {
                    "PYTHONPATH": str(ROOT),
                    "JAX_COORDINATOR_ADDRESS": coordinator,
                    "JAX_NUM_PROCESSES": "2",
                    "JAX_PROCESS_ID": str(index),
                },
            )
            for index in range(2)
        ]
        assert [process.wait(timeout=120) for process in running] == [0, 0]
    store.proxy.on_write = lambda name: None
    for name in ("sft", "rou_2"):
        values = points(as_path(workdir) / "logs" / name)
        assert values == [
            (tag, step, value)
            for step in range(1, 7)
            for tag, value in (("loss", step / 2), ("process", 0))
        ]
    assert list_names(as_path(workdir) / "logs") == ["rou_2", "sft"]
    assert len(writes) <= 2 * 2 * 2  # of each file and run: the first points, and at the end
