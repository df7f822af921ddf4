"""Paths in object stores, on real servers."""

import asyncio
import logging
import pathlib
import pickle
import re
import subprocess
import sys

import pytest

from pav_jax.errors import BadInput, TemporaryFailure
from pav_jax.storage import addresses
from pav_jax.storage.addresses import as_path, is_remote, list_names, read_many
from pav_jax.storage.files import atomic_file, write_atomic
from pav_jax.storage.json_files import read_json, write_json

pytestmark = pytest.mark.slow  # server processes


def test_as_path_local():
    assert as_path("runs/x") == pathlib.Path("runs/x")
    assert type(as_path("/a//b")) is type(pathlib.Path("/a"))
    assert not is_remote("/a://b") and not is_remote("C:/x")


@pytest.mark.parametrize("address", ["http://x/y", "gs://", "s3:///", "abc://b/x"])
def test_as_path_unknown_address(address):
    with pytest.raises(BadInput) as caught:
        as_path(address)
    assert caught.value.source == address


def test_as_path_client_not_installed(monkeypatch):
    addresses._configure.cache_clear()
    monkeypatch.setattr(addresses.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"pip install 'pav-jax\[s3\]'"):
        as_path("s3://bucket/x")


def test_only_as_path_makes_paths_of_addresses():
    package = pathlib.Path(addresses.__file__).parents[1]
    sources = {
        file.relative_to(package).as_posix(): file.read_text() for file in package.rglob("*.py")
    }
    made = {name for name, text in sources.items() if "epath.Path(" in text}
    assert made == {"checkpoints/orbax.py"}  # of what as_path gave
    of_workdir = re.compile(r"\bPath\([\w.]*(workdir|args\.out|output_dir)")
    assert not [name for name, text in sources.items() if of_workdir.search(text)]


def test_path_joins_and_survives_pickling(store):
    path = as_path(f"{store.address}/runs") / "x" / "a.json"
    assert str(path) == f"{store.address}/runs/x/a.json"
    assert pickle.loads(pickle.dumps(path)) == path
    assert type(path.parent) is type(path) is type(path.with_name("b"))
    assert str((path / ".." / ".." / "y").resolve()) == f"{store.address}/runs/y"
    assert as_path(str(path)) == as_path(path) == path


def test_path_reads_what_was_written(store):
    folder = as_path(f"{store.address}/read/folder")
    assert not folder.exists() and list_names(folder) == []
    write_atomic(folder / "a.txt", b"one\r\ntwo")
    write_json(folder / "deep" / "b.json", {"x": 1})
    assert read_json(folder / "deep" / "b.json") == {"x": 1}
    assert (folder / "a.txt").read_text() == "one\ntwo"
    assert list_names(folder) == ["a.txt", "deep"]
    assert [path.name for path in folder.iterdir()] == ["a.txt", "deep"]
    assert folder.is_dir() and (folder / "a.txt").is_file() and not (folder / "a.txt").is_dir()
    assert read_many([folder / "a.txt", folder / "deep" / "b.json"])[0] == b"one\r\ntwo"
    with atomic_file(folder / "c.bin") as part:
        part.write_bytes(b"three")
    assert (folder / "c.bin").read_bytes() == b"three"
    (folder / "c.bin").unlink()
    (folder / "c.bin").unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError):
        (folder / "c.bin").read_bytes()


def test_requests_per_operation(store):
    path = as_path(f"{store.address}/requests/a.txt")
    counts = {}
    for name, operation in {
        "write": lambda: write_atomic(path, b"x"),
        "read": path.read_bytes,
        "list": lambda: list_names(path.parent),
    }.items():
        store.proxy.requests.clear()
        operation()
        counts[name] = len(store.proxy.requests)
    size_first = store.address.startswith("s3")  # s3fs asks for it
    assert counts == {"write": 1, "read": 1 + size_first, "list": 1}


def test_one_client_that_asks_nothing_of_the_bucket(store, caplog):
    with caplog.at_level(logging.DEBUG):
        for name in "abc":
            write_atomic(f"{store.address}/client/{name}", b"x")
    assert addresses.filesystem(store.address) is addresses.filesystem(f"{store.address}/client")
    assert "bucket type" not in caplog.text
    assert len(store.proxy.requests) == 3


def test_client_made_before_the_settings(store):
    """JAX makes one for its cache of compiled programs; it would list folders from memory."""
    code = (
        "import sys; from etils import epath\n"
        "epath.Path(sys.argv[1]).exists()\n"
        "from pav_jax.storage.addresses import as_path, filesystem\n"
        "as_path(sys.argv[1])\n"
        "print(filesystem(sys.argv[1]).dircache.use_listings_cache)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, f"{store.address}/early"], capture_output=True, text=True
    )
    assert result.stdout == "False\n", result.stderr


@pytest.mark.parametrize("fault", [503, "reset", "slow"])
def test_passing_fault_is_retried(store, fault):
    path = as_path(f"{store.address}/retries/{fault}")
    failed = set()

    def fail_first_of_each_method(method, name):
        if method in failed:
            return None
        failed.add(method)
        return fault

    store.proxy.fault = fail_first_of_each_method
    write_atomic(path, b"data")
    assert path.read_bytes() == b"data"
    assert "GET" in failed and failed & {"PUT", "POST"}


OPERATIONS = {
    "exists": lambda path: path.exists(),
    "is_dir": lambda path: path.is_dir(),
    "is_file": lambda path: path.is_file(),
    "read": lambda path: path.read_bytes(),
    "list": lambda path: list_names(path),
    "write": lambda path: write_atomic(path, b"x"),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_refused_request_is_one_line(store, operation, caplog):
    store.proxy.fault = lambda method, path: 403
    address = f"{store.address}/refused"
    with pytest.raises(BadInput) as caught:
        OPERATIONS[operation](as_path(address))
    assert caught.value.source == address and "\n" not in str(caught.value)
    assert caught.value.exit_status == 2 and not caplog.records


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("fault", [429, 500, 503, "reset"])
def test_outage_is_temporary(store, operation, fault, monkeypatch):
    sleep = asyncio.sleep
    monkeypatch.setattr(asyncio, "sleep", lambda seconds, *rest: sleep(min(seconds, 0.01), *rest))
    store.proxy.fault = lambda method, path: fault
    with pytest.raises(TemporaryFailure) as caught:
        OPERATIONS[operation](as_path(f"{store.address}/outage"))
    assert caught.value.exit_status == 1 and "\n" not in str(caught.value)


def test_write_missing_bucket(store):
    scheme = store.address.partition("://")[0]
    with pytest.raises(BadInput, match="no such bucket"):
        write_atomic(f"{scheme}://missing/x", b"x")
