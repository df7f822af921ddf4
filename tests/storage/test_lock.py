import asyncio
import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import time
import uuid

import pytest

from pav_jax.errors import BadInput, TemporaryFailure
from pav_jax.storage import lock
from pav_jax.storage.addresses import filesystem
from pav_jax.storage.lock import workdir_lock
from tests.impossible_paths import IMPOSSIBLE, make_places

HOLD = (
    "import sys, time; from pav_jax.storage.lock import workdir_lock\n"
    "with workdir_lock(sys.argv[1]): print('held', flush=True); time.sleep(60)"
)


@contextlib.contextmanager
def holder_process(workdir):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(workdir)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_workdir_lock_second_process_and_death(tmp_path):
    with holder_process(tmp_path / "w") as process:
        with pytest.raises(BadInput) as error, workdir_lock(tmp_path / "w"):
            pass
        assert f"process {process.pid} on " in str(error.value)
        assert error.value.source == "--workdir" and "\n" not in str(error.value)
        process.send_signal(signal.SIGKILL)
        process.wait()
        with workdir_lock(tmp_path / "w"):  # left behind by a process that was killed
            pass
    assert os.listdir(tmp_path / "w") == []


def test_workdir_lock_reentrant(tmp_path):
    with workdir_lock(tmp_path):
        with workdir_lock(str(tmp_path) + "/"):
            pass
        assert json.loads((tmp_path / lock.FILE).read_text())["pid"] == os.getpid()
    assert not (tmp_path / lock.FILE).exists()


@pytest.mark.parametrize("name", IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
def test_workdir_lock_impossible_path(name, tmp_path):
    if name.startswith("dangling"):
        pytest.skip("what the link names is made")
    path = os.path.join(make_places(tmp_path), name)
    with pytest.raises(BadInput, match="--workdir") as error, workdir_lock(path):
        pass
    assert len(str(error.value)) < 2000


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"pid": 1}', b"\xff\xfe"])
def test_workdir_lock_corrupt_file_without_holder(content, tmp_path):
    (tmp_path / lock.FILE).write_bytes(content)
    with workdir_lock(tmp_path):
        pass


def test_workdir_lock_unusable_folder(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(BadInput, match="--workdir"), workdir_lock(path):
            pass


def test_workdir_lock_file_system_without_locks(tmp_path, monkeypatch):
    def unsupported(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "lockf", unsupported)
    with workdir_lock(tmp_path):
        assert json.loads((tmp_path / lock.FILE).read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def address(monkeypatch, gcs_store):
    """A folder in Cloud Storage; the lock expires soon."""
    monkeypatch.setattr(lock, "EXPIRE_S", 0.6)
    monkeypatch.setattr(lock, "REFRESH_S", 0.1)
    monkeypatch.setattr(lock, "POLL_S", 0.02)
    return f"{gcs_store.address}/{uuid.uuid4().hex}"


def _write_holder(address, **changes):
    values = {"owner": "x", "host": "elsewhere", "pid": 7, "started": "then", "time": 0.0}
    path = f"{address}/{lock.FILE}"
    store = filesystem(path)
    store.pipe_file(path, json.dumps(values | changes).encode())
    return store, path


def test_object_lock_refreshed_and_deleted(address):
    path = f"{address}/{lock.FILE}"
    store = filesystem(path)
    with workdir_lock(address):
        first = json.loads(store.cat_file(path))
        time.sleep(0.3)
        second = json.loads(store.cat_file(path))
        assert first["owner"] == second["owner"] and second["time"] > first["time"]
    assert not store.exists(path)


def test_object_lock_holder_on_another_host(address, monkeypatch):
    _write_holder(address)
    reads = iter(range(1, 1000))
    read = lock._ObjectLock._read

    def refreshed(self):
        _write_holder(address, time=float(next(reads)))
        return read(self)

    with monkeypatch.context() as patch:
        patch.setattr(lock._ObjectLock, "_read", refreshed)
        named = pytest.raises(BadInput, match="process 7 on elsewhere, started then")
        with named, workdir_lock(address):
            pass
    started = time.monotonic()
    with workdir_lock(address):  # it was not refreshed any more
        assert time.monotonic() - started > 0.5


@pytest.mark.parametrize("is_dead", [True, False])
def test_object_lock_holder_on_this_host(address, is_dead, monkeypatch):
    monkeypatch.setattr(lock, "EXPIRE_S", 60.0)
    with subprocess.Popen(["sleep", "60"]) as process:
        if is_dead:
            process.kill()
            process.wait()
        host = lock.Holder.this_process().host
        _write_holder(address, host=host, pid=process.pid, time=time.time())
        if is_dead:
            with workdir_lock(address):
                pass
        else:
            with pytest.raises(BadInput, match=f"process {process.pid} on"), workdir_lock(address):
                pass
            process.kill()


def test_object_lock_store_refuses_to_delete(address, monkeypatch, gcs_store):
    monkeypatch.setattr(
        gcs_store.proxy, "fault", lambda method, path: 403 if method == "DELETE" else None
    )
    with workdir_lock(address):
        pass  # a run that has finished does not fail because of its lock
    _write_holder(address)  # one that expires
    with pytest.raises(BadInput, match="the object store refused"), workdir_lock(address):
        pass


@pytest.mark.parametrize("fault", [403, 503, "reset"])
def test_object_lock_not_created(address, fault, monkeypatch, gcs_store):
    """What may pass does not end launch/watch.sh, as exit status 2 would."""
    sleep = asyncio.sleep
    monkeypatch.setattr(asyncio, "sleep", lambda seconds, *rest: sleep(min(seconds, 0.01), *rest))
    monkeypatch.setattr(gcs_store.proxy, "fault", lambda method, path: fault)
    with pytest.raises(BadInput, match=f"--workdir={address}: ") as caught, workdir_lock(address):
        pass
    assert isinstance(caught.value, TemporaryFailure) == (fault != 403)


def test_object_lock_taken_over(address, monkeypatch, caplog):
    interrupted = []
    monkeypatch.setattr(lock._thread, "interrupt_main", lambda: interrupted.append(True))
    with workdir_lock(address):
        store, path = _write_holder(address)
        time.sleep(0.3)
    assert interrupted and "has taken over" in caplog.text
    assert json.loads(store.cat_file(path))["owner"] == "x"
