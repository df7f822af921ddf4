"""Whole folders: they appear complete or not at all, on a local disk and in an object store.

A local folder is written beside its place and renamed. In an object store the files are uploaded
first and `_COMPLETE.json` last, which lists them with their sizes.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from pav_jax.errors import BadInput
from pav_jax.storage.addresses import AnyPath, as_path, filesystem, is_remote, store_errors
from pav_jax.storage.files import write_atomic, writing
from pav_jax.storage.scratch import copies, temporary_folder

MARKER = "_COMPLETE.json"


def is_whole(path: str | os.PathLike) -> bool:
    """Whether a folder written by `atomic_folder` or `upload_folder` is there."""
    folder = as_path(path)
    return (folder / MARKER).exists() if is_remote(folder) else folder.is_dir()


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Yield an empty local folder; at the end it becomes `path`, in place of an older folder.

    Nothing is left behind after an error, and an older folder at `path` is then unchanged.

    Raises:
      BadInput: the folder cannot be made.
    """
    target = as_path(path)
    if is_remote(target):
        with temporary_folder(target.name) as part:
            yield part
            upload_folder(part, target)
        return
    target = Path(target)
    part = target.with_name(target.name + ".part")
    old = target.with_name(target.name + ".old")
    with writing(target):
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
    try:
        yield part
        with writing(target):
            if target.is_dir():  # removed in its place, it would look whole for a while
                shutil.rmtree(old, ignore_errors=True)
                os.replace(target, old)
            os.replace(part, target)
            shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextlib.contextmanager
def output_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Yield the local folder `path`, or for an object store one that is uploaded at the end."""
    if is_remote(path):
        with atomic_folder(path) as part:
            yield part
    else:
        yield Path(path)


def upload_folder(source: Path, target: AnyPath) -> None:
    """Upload a local folder to an object store: the files first, the marker last.

    Raises:
      BadInput: the object store refuses it.
    """
    sizes = {
        file.relative_to(source).as_posix(): file.stat().st_size
        for file in sorted(source.rglob("*"))
        if file.is_file()
    }
    copies.forget(os.fspath(target))
    (target / MARKER).unlink(missing_ok=True)
    with store_errors(target, writing=True):
        filesystem(target).put(
            [str(source / name) for name in sizes], [os.fspath(target / name) for name in sizes]
        )
    write_atomic(target / MARKER, json.dumps({"files": sizes}).encode())


def remove_folder(target: AnyPath) -> None:
    """Remove a folder, in an object store its marker first; do nothing if there is none."""
    if not is_remote(target):
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(target)
        return
    copies.forget(os.fspath(target))
    (target / MARKER).unlink(missing_ok=True)
    with contextlib.suppress(FileNotFoundError), store_errors(target):
        filesystem(target).rm(os.fspath(target), recursive=True)


def rename_folder(source: AnyPath, target: AnyPath) -> None:
    """Rename a folder of an object store: its files are copied there and then removed here."""
    with store_errors(source):
        filesystem(source).copy(os.fspath(source), os.fspath(target), recursive=True)
    remove_folder(source)


def local_copy(path: str | os.PathLike) -> Path:
    """The local path of a file or folder: itself, or a copy of what is in an object store.

    A folder with a marker is copied as the marker says, any other as it is. A second call gives
    the same copy.

    Raises:
      BadInput: there is nothing at this address, it is incomplete, or the disk is too small.
    """
    target = as_path(path)
    if not is_remote(target):
        return Path(target)
    with copies.lock:
        return copies.get(os.fspath(target)) or _download(target)


def _download(target: AnyPath) -> Path:
    """Copy a file or folder of an object store to the scratch."""
    address = os.fspath(target)
    sizes = _sizes(target)
    total = sum(sizes.values())
    copy = copies.new(address, total) / target.name
    names = {name: copy / name if name else copy for name in sizes}
    for file in names.values():
        file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with store_errors(target):
            filesystem(target).get(
                [os.fspath(target / name) if name else address for name in names],
                [str(file) for file in names.values()],
            )
        wrong = [n for n, file in names.items() if file.stat().st_size != sizes[n]]
    except FileNotFoundError as error:
        wrong = [str(error)]
    if wrong:
        shutil.rmtree(copy.parent, ignore_errors=True)
        raise BadInput(
            f"{address}: incomplete, {wrong[0]} is missing or has another size; upload it again",
            source=address,
        )
    copies.add(address, copy, total)
    return copy


def made_folder(path: str | os.PathLike, make: Callable[[Path], None]) -> Path:
    """The local path of a folder that `make` writes where it is missing, as on the first call.

    Args:
      make: called with a local folder; on a local disk with `path` itself, each time.
    """
    target = as_path(path)
    if not is_remote(target):
        make(Path(target))
        return Path(target)
    if not is_whole(target):
        with temporary_folder(target.name) as part:
            make(part)
            upload_folder(part, target)
    return local_copy(target)


def _sizes(target: AnyPath) -> dict[str, int]:
    """The files of a folder and their sizes in bytes; {"": size} for a single file."""
    marker = b""
    with contextlib.suppress(FileNotFoundError):
        marker = (target / MARKER).read_bytes()
    # without a marker, or with one that cannot be parsed, the folder is listed
    with contextlib.suppress(ValueError, LookupError, TypeError, AttributeError, RecursionError):
        files = json.loads(marker)["files"]
        if all(_is_inside(name) for name in files):
            return {name: int(size) for name, size in files.items()}
    with store_errors(target):
        entries = filesystem(target).find(os.fspath(target), detail=True)
    prefix = os.fspath(target).partition("://")[2].rstrip("/")
    sizes = {
        name.removeprefix(prefix).lstrip("/"): int(entry["size"])
        for name, entry in entries.items()
        if not name.endswith("/")
    }
    if not sizes:
        raise BadInput(f"{target}: no such file or folder; check the address", source=target)
    return sizes


def _is_inside(name: str) -> bool:
    """Whether a name in a marker is a path below its folder."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts
