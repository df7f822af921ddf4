"""Atomic files and folders."""

import errno
import os

import pytest
from safetensors import SafetensorError

from pav_jax.errors import BadInput
from pav_jax.storage.files import atomic_file, check_writable, write_atomic
from pav_jax.storage.folders import atomic_folder
from tests.impossible_paths import IMPOSSIBLE, make_places

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


# ------------------------------------------------------------------------------ impossible paths


@pytest.fixture
def places(tmp_path):
    return make_places(tmp_path)


def atomic_file_at(path):
    with atomic_file(path) as part:
        part.write_bytes(b"data")


def atomic_folder_at(path):
    with atomic_folder(path) as part:
        (part / "a").write_bytes(b"data")


@pytest.mark.parametrize("name", IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
@pytest.mark.parametrize(
    "write", [lambda path: write_atomic(path, b"data"), atomic_file_at, atomic_folder_at]
)
def test_write_to_impossible_path(write, name, places):
    with pytest.raises(BadInput, match="could not be written") as error:
        write(os.path.join(places, name))
    assert "\n" not in str(error.value) and len(str(error.value)) < 500
    assert sorted(p.name for p in places.iterdir()) == ["dangling", "file", "folder"]


@pytest.mark.parametrize("name", [*IMPOSSIBLE.values(), "dangling"], ids=str)
def test_check_writable_impossible_path(name, places):
    with pytest.raises(BadInput) as error:
        check_writable(os.path.join(places, name), "--out")
    assert str(error.value).encode()


@pytest.mark.parametrize("name", ["new", "folder", "folder/new", "new/far/below", "file"])
def test_check_writable_possible_path(name, places):
    check_writable(places / name, "--out")
    assert sorted(p.name for p in places.iterdir()) == ["dangling", "file", "folder"]


def test_check_writable_folder_without_permission(places, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(BadInput, match="not writable"):
        check_writable(places / "folder" / "a", "--out")


FULL = {
    "disk": (errno.ENOSPC, "free disk space"),
    "quota": (errno.EDQUOT, "free disk space"),
    "limit of a file": (errno.EFBIG, "too large"),
}


@pytest.mark.parametrize(("number", "advice"), FULL.values(), ids=FULL.keys())
def test_atomic_file_full(number, advice, tmp_path):
    library = SafetensorError(f"I/O error: {os.strerror(number)} (os error {number})")
    for error in (OSError(number, os.strerror(number)), library):
        with pytest.raises(BadInput, match=advice), atomic_file(tmp_path / "a") as part:
            part.write_bytes(b"half")
            raise error
        assert list(tmp_path.iterdir()) == []
