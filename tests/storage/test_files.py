"""Atomic files and folders."""

import errno
import os

import pytest

from pav_jax.errors import BadInput
from pav_jax.storage.files import atomic_file, write_atomic
from pav_jax.storage.folders import atomic_folder

DISK_FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def fail(*args, **kwargs):
    raise DISK_FULL


class HalfWritten:
    """A file whose disk is full after five bytes."""

    def __init__(self, file):
        self.file = file

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.file.close()

    def write(self, data):
        self.file.write(data[:5])
        raise DISK_FULL


@pytest.mark.parametrize("step", ["open", "write", "fsync", "replace"])
def test_write_atomic_full_disk(tmp_path, monkeypatch, step):
    path = tmp_path / "pairs.jsonl"
    write_atomic(path, b"old")
    path_type = type(path)
    real_open = path_type.open
    if step == "fsync":
        monkeypatch.setattr(os, "fsync", fail)
    elif step == "write":
        monkeypatch.setattr(
            path_type, "open", lambda self, mode="r", **k: HalfWritten(real_open(self, mode, **k))
        )
    else:
        monkeypatch.setattr(path_type, step, fail)
    with pytest.raises(BadInput, match="no space left on device") as error:
        write_atomic(path, b"new and longer")
    assert "\n" not in str(error.value)
    assert error.value.source == str(path)
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["pairs.jsonl"]


def test_write_atomic_makes_parent_folders(tmp_path):
    write_atomic(tmp_path / "a" / "b.txt", b"text")
    assert (tmp_path / "a" / "b.txt").read_bytes() == b"text"


def test_atomic_file_success_and_error(tmp_path):
    path = tmp_path / "a" / "weights.bin"
    with atomic_file(path) as part:
        part.write_bytes(b"old")
        assert not path.exists()
    with pytest.raises(RuntimeError), atomic_file(path) as part:
        part.write_bytes(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert [p.name for p in path.parent.iterdir()] == ["weights.bin"]


def test_atomic_folder_success_and_error(tmp_path):
    path = tmp_path / "booster"
    (tmp_path / "booster.part").mkdir()  # left by a run that was killed
    (tmp_path / "booster.part" / "stale").touch()
    for text in ("old", "new"):
        with atomic_folder(path) as part:
            (part / "config.json").write_text(text)
    with pytest.raises(RuntimeError), atomic_folder(path) as part:
        (part / "config.json").write_text("half")
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["booster"]
    assert [p.name for p in path.iterdir()] == ["config.json"]
    assert (path / "config.json").read_text() == "new"
