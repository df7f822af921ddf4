"""Whole folders on a local disk and in object stores."""

import json
import shutil

import pytest

from pav_jax.errors import BadInput
from pav_jax.storage import folders, scratch
from pav_jax.storage.addresses import as_path, filesystem, list_names
from pav_jax.storage.files import write_atomic
from pav_jax.storage.folders import (
    MARKER,
    IncompleteFolder,
    atomic_folder,
    head_copy,
    is_whole,
    local_copy,
    made_folder,
    output_folder,
    partial_copy,
    remove_folder,
    rename_folder,
    replace_file,
)

pytestmark = pytest.mark.slow  # server processes


def write_files(folder, text="x"):
    (folder / "sub").mkdir()
    (folder / "config.json").write_text(text)
    (folder / "sub" / "weights").write_bytes(b"12345")


def contents(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def test_atomic_folder_remote(store):
    path = as_path(f"{store.address}/atomic/booster")
    for text in ("old", "new"):
        with atomic_folder(path) as part:
            write_files(part, text)
            assert is_whole(path) == (text == "new")
        assert contents(local_copy(path)) == {"config.json": text.encode(), "sub/weights": b"12345"}
    with pytest.raises(RuntimeError), atomic_folder(path) as part:
        write_files(part, "half")
        raise RuntimeError
    assert (path / "config.json").read_bytes() == b"new"
    assert list(scratch.folder().glob("*/booster/half")) == []
    remove_folder(path)
    assert not is_whole(path) and not path.exists()


def test_atomic_folder_local(tmp_path, monkeypatch):
    path = tmp_path / "booster"
    remove = shutil.rmtree

    def remove_and_check(folder, **options):
        assert folder != path  # it would look whole while it is being removed
        remove(folder, **options)

    monkeypatch.setattr(folders.shutil, "rmtree", remove_and_check)
    for text in ("old", "new"):
        with atomic_folder(path) as part:
            write_files(part, text)
        assert contents(path) == {"config.json": text.encode(), "sub/weights": b"12345"}
    with pytest.raises(RuntimeError), atomic_folder(path) as part:
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["booster"]
    assert (path / "config.json").read_text() == "new"


def test_rename_folder(store):
    path = as_path(f"{store.address}/rename/3")
    with atomic_folder(path) as part:
        write_files(part)
    store.proxy.requests.clear()
    rename_folder(path, path.parent / "3.unreadable-1")
    assert list_names(path.parent) == ["3.unreadable-1"]
    assert "sub/weights" in contents(local_copy(path.parent / "3.unreadable-1"))
    # the marker is removed first: what is left after an interruption is not whole
    assert next(p for m, p in store.proxy.requests if m == "DELETE").endswith(MARKER)


def test_upload_that_fails_is_not_whole(store):
    path = as_path(f"{store.address}/torn/booster")
    count = iter(range(9))

    def refuse_the_second_write(method, name):
        return 403 if method in ("PUT", "POST") and next(count) == 1 else None

    store.proxy.fault = refuse_the_second_write
    with pytest.raises(BadInput), atomic_folder(path) as part:
        write_files(part)
    store.proxy.fault = lambda method, name: None
    assert path.exists() and not is_whole(path)


def test_marker_is_written_last(store):
    with atomic_folder(f"{store.address}/order/booster") as part:
        write_files(part)
    names = filesystem(store.address).find(f"{store.address}/order", detail=True)
    newest = max(
        names, key=lambda name: str(names[name].get("mtime") or names[name]["LastModified"])
    )
    assert newest.endswith(MARKER) or store.address.startswith("s3")  # S3 counts whole seconds
    marker = json.loads(as_path(f"{store.address}/order/booster/{MARKER}").read_bytes())
    assert marker["files"] == {"config.json": 1, "sub/weights": 5}


def test_local_copy_of_folder_without_marker_and_of_file(store):
    folder = as_path(f"{store.address}/plain")
    write_atomic(folder / "a.txt", b"one")
    write_atomic(folder / "deep" / "b.txt", b"two")
    assert contents(local_copy(folder)) == {"a.txt": b"one", "deep/b.txt": b"two"}
    assert local_copy(folder / "a.txt").read_bytes() == b"one"
    assert local_copy(folder / "a.txt").name == "a.txt"
    store.proxy.requests.clear()
    assert local_copy(folder) == local_copy(folder) and not store.proxy.requests
    with pytest.raises(BadInput, match="no such file or folder"):
        local_copy(f"{store.address}/absent")


@pytest.mark.parametrize("has_marker", [True, False])
def test_partial_copy(store, tmp_path, has_marker):
    folder = as_path(f"{store.address}/{tmp_path.name}/model")
    with atomic_folder(folder) as part:
        write_files(part)
    if not has_marker:
        (folder / MARKER).unlink()
    copy = partial_copy(folder, (".json",))
    assert {"config.json": b"x"}.items() <= contents(copy).items()
    assert "sub/weights" not in contents(copy) and (copy / "sub").is_dir()
    store.proxy.requests.clear()
    assert partial_copy(folder, (".json",)) == copy and not store.proxy.requests
    flat = partial_copy(folder, ("weights", "config.json"), is_flat=True)
    assert contents(flat) == {"config.json": b"x"}
    assert contents(local_copy(folder)) == {"config.json": b"x", "sub/weights": b"12345"}
    assert partial_copy(folder / "config.json", (".txt",)).read_bytes() == b"x"
    assert partial_copy(tmp_path, ()) == tmp_path
    with pytest.raises(BadInput, match="no such file or folder"):
        partial_copy(f"{store.address}/absent", (".json",))


def test_head_copy(store, tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "HEAD_BYTES", 10)
    path = as_path(f"{store.address}/{tmp_path.name}/file")
    write_atomic(path, bytes(range(1, 101)))
    store.proxy.sent.clear()
    copy = head_copy(path, lambda file: file.stat().st_size >= 30)
    assert copy.read_bytes() == bytes(range(1, 41)) + bytes(60)
    assert sum(count for name, count in store.proxy.sent if "file" in name and count <= 40) >= 50
    assert head_copy(path, lambda file: False) == copy  # the same one
    assert head_copy(tmp_path, lambda file: False) == tmp_path
    write_atomic(path.with_name("empty"), b"")
    assert head_copy(path.with_name("empty"), lambda file: False).read_bytes() == b""
    with pytest.raises(BadInput, match="no such file or folder"):
        head_copy(path.with_name("absent"), lambda file: True)


@pytest.mark.parametrize("has_marker", [True, False])
def test_replace_file(store, tmp_path, has_marker):
    folder = as_path(f"{store.address}/{tmp_path.name}/model")
    with atomic_folder(folder) as part:
        write_files(part)
    if not has_marker:
        (folder / MARKER).unlink()
    for name in ("config.json", "new.json"):
        replace_file(folder, name, b"longer")
    assert is_whole(folder) == has_marker
    files = {"config.json": b"longer", "new.json": b"longer", "sub/weights": b"12345"}
    assert contents(local_copy(folder)) == files
    replace_file(tmp_path, "new.json", b"x")
    assert (tmp_path / "new.json").read_bytes() == b"x"


@pytest.mark.parametrize("damage", ["remove", "truncate"])
def test_local_copy_incomplete(store, damage):
    folder = as_path(f"{store.address}/incomplete_{damage}")
    with atomic_folder(folder) as part:
        write_files(part)
    if damage == "remove":
        (folder / "sub" / "weights").unlink()
    else:
        write_atomic(folder / "sub" / "weights", b"123")
    with pytest.raises(IncompleteFolder, match="incomplete"):
        local_copy(folder)


@pytest.mark.parametrize(
    "marker",
    [
        b"",
        b"[]",
        b"\xff",
        b'{"files": 3}',
        b'{"files": ["config.json"]}',
        b'{"files": {"config.json": "x"}}',
        b'{"files": {"config.json": null}}',
        b'{"files": {"../../escaped": 3}}',
    ],
)
def test_local_copy_unusable_marker(store, marker):
    folder = as_path(f"{store.address}/marker_{marker.hex()}")
    with atomic_folder(folder) as part:
        write_files(part)
    write_atomic(folder / MARKER, marker)
    assert "sub/weights" in contents(local_copy(folder))
    assert not list(scratch.folder().rglob("escaped"))


def test_made_folder_is_made_once(store):
    made = []

    def make(folder):
        made.append(folder)
        write_files(folder)

    path = f"{store.address}/made/data"
    first = contents(made_folder(path, make))
    scratch.copies.forget(path)
    assert contents(made_folder(path, make)) == first and len(made) == 1


def test_output_folder_local(tmp_path):
    with output_folder(tmp_path / "new") as out:
        assert out == tmp_path / "new"
    with output_folder("relative") as out:
        assert str(out) == "relative"


def test_copies_are_bounded(store, monkeypatch):
    monkeypatch.setattr(scratch, "limit", lambda: 2500)
    for name in "abc":
        write_atomic(f"{store.address}/bounded/{name}", b"x" * 1000)
    paths = {}
    for name in "aba":
        paths[name] = local_copy(f"{store.address}/bounded/{name}")
    paths["c"] = local_copy(f"{store.address}/bounded/c")  # in place of b, used longest ago
    assert [paths[name].exists() for name in "abc"] == [True, False, True]
    assert local_copy(f"{store.address}/bounded/b").read_bytes() == b"x" * 1000


def test_copy_larger_than_disk(store, monkeypatch):
    write_atomic(f"{store.address}/large", b"x" * 1000)
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr(folders.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(BadInput, match="PAV_SCRATCH"):
        local_copy(f"{store.address}/large")
    assert list_names(f"{store.address}/large") == []
