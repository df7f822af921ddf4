"""The scratch folder of a process."""

import os
import signal
import subprocess
import sys

import pytest

from pav_jax.errors import BadInput
from pav_jax.storage import scratch

PROGRAM = """
import os, signal, sys
from pav_jax.storage import scratch
(scratch.folder() / "copy").write_text("x")
print([path.name for path in scratch.folder().parent.iterdir()].__len__(), flush=True)
if sys.argv[1] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
"""


def run(tmp_path, how):
    environment = os.environ | {"PAV_SCRATCH": str(tmp_path)}
    command = [sys.executable, "-c", PROGRAM, how]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    return done.returncode, int(done.stdout)


def test_scratch_is_removed_at_the_end(tmp_path):
    assert run(tmp_path, "normal") == (0, 1)
    assert list(tmp_path.iterdir()) == []


def test_scratch_of_killed_process_is_removed_by_the_next(tmp_path):
    assert run(tmp_path, "killed") == (-signal.SIGKILL, 1)
    assert len(list(tmp_path.iterdir())) == 1
    assert run(tmp_path, "normal") == (0, 1)
    assert list(tmp_path.iterdir()) == []


def test_scratch_that_is_being_made_is_not_removed(tmp_path):
    (tmp_path / f"{scratch.PREFIX}new").mkdir()  # not locked yet
    assert run(tmp_path, "normal") == (0, 2)
    assert [path.name for path in tmp_path.iterdir()] == [f"{scratch.PREFIX}new"]


@pytest.mark.parametrize("text", ["much", "-1", "0", "nan", "inf"])
def test_limit_not_a_size(monkeypatch, text):
    monkeypatch.setenv(scratch.LIMIT_ENV, text)
    scratch.limit.cache_clear()
    with pytest.raises(BadInput) as caught:
        scratch.limit()
    assert caught.value.source == scratch.LIMIT_ENV


def test_folder_not_writable(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv(scratch.FOLDER_ENV, str(tmp_path / "file" / "below"))
    scratch.folder.cache_clear()
    with pytest.raises(BadInput) as caught:
        scratch.folder()
    scratch.folder.cache_clear()
    assert caught.value.source == scratch.FOLDER_ENV
