"""Whole folders: they appear complete or not at all, on a local disk and in an object store.

A local folder is written beside its place and renamed. In an object store the files are uploaded
first and `_COMPLETE.json` last, which lists them with their sizes.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from pav_jax.errors import BadInput
from pav_jax.storage.addresses import AnyPath, as_path, filesystem, is_remote, store_errors
from pav_jax.storage.files import write_atomic, writing
from pav_jax.storage.scratch import copies, temporary_folder

MARKER = "_COMPLETE.json"
HEAD_BYTES = 2**22  # that are read first of a file whose beginning is needed


class IncompleteFolder(BadInput):
    """Raised when files of a folder in an object store are missing or have another size."""


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


def replace_file(folder: str | os.PathLike, name: str, data: bytes) -> None:
    """Write one file of a folder; where a marker lists the files, it lists the new size.

    A process that is killed meanwhile leaves a folder without a marker.
    """
    target = as_path(folder)
    if not is_remote(target) or not is_whole(target):
        write_atomic(target / name, data)
        return
    sizes = _sizes(target) | {name: len(data)}
    (target / MARKER).unlink()
    write_atomic(target / name, data)
    write_atomic(target / MARKER, json.dumps({"files": sizes}).encode())
    copies.forget(os.fspath(target))


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
      BadInput: there is nothing at this address, or the disk is too small.
      IncompleteFolder: it is incomplete.
    """
    target = as_path(path)
    if not is_remote(target):
        return Path(target)
    with copies.lock:
        return copies.get(os.fspath(target)) or _download(target, _sizes(target))


def partial_copy(path: str | os.PathLike, endings: Sequence[str], is_flat: bool = False) -> Path:
    """The local path of a folder: itself, or a copy of some files of one in an object store.

    A single file in an object store is copied whatever its name.

    Args:
      endings: of the names of the files to copy; the others' folders are made too.
      is_flat: whether to leave out subfolders. Such a copy, of small files that a user may change
        meanwhile, is made at each call.

    Raises:
      BadInput, IncompleteFolder: as in `local_copy`.
    """
    target = as_path(path)
    if not is_remote(target):
        return Path(target)
    key = f"{target} {is_flat} {' '.join(endings)}"
    with copies.lock:
        if not is_flat and (copy := copies.get(key)):
            return copy
        sizes = _sizes(target, max_depth=1 if is_flat else None)
        if "" in sizes:
            return local_copy(target)
        wanted = {
            name: size
            for name, size in sizes.items()
            if name.endswith(tuple(endings)) and not (is_flat and "/" in name)
        }
        copy = _download(target, wanted, key)
        for name in sizes:
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
        return copy


def head_copy(path: str | os.PathLike, is_enough: Callable[[Path], bool]) -> Path:
    """The local path of a file: itself, or a copy of the beginning of one in an object store.

    The copy has the size of the file; its end is zeros, which take no space.

    Args:
      is_enough: whether a file that ends early holds what is needed.

    Raises:
      BadInput: there is nothing at this address.
    """
    target = as_path(path)
    if not is_remote(target):
        return Path(target)
    key = f"{target} head"
    with copies.lock:
        if copy := copies.get(key):
            return copy
        size = _sizes(target).get("")
        if size is None:  # a folder
            return local_copy(target)
        copy = copies.new(os.fspath(target), 0) / target.name
        count = 0
        while count < size and not (count and is_enough(copy)):
            count = min(size, max(HEAD_BYTES, 4 * count))
            with store_errors(target):
                copy.write_bytes(filesystem(target).cat_file(os.fspath(target), start=0, end=count))
        copy.touch()
        os.truncate(copy, size)
        copies.add(key, copy, count)
        return copy


def _download(target: AnyPath, sizes: Mapping[str, int], key: str | None = None) -> Path:
    """Copy files of an object store to the scratch.

    Args:
      sizes: of the files in the folder `target`, or {"": size} if that is a file.
      key: for `copies`; None: the address.
    """
    address = os.fspath(target)
    total = sum(sizes.values())
    copy = copies.new(address, total) / target.name
    names = {name: copy / name if name else copy for name in sizes}
    for file in names.values():
        file.parent.mkdir(parents=True, exist_ok=True)
    sources = [os.fspath(target / name) if name else address for name in names]
    try:
        with store_errors(target):
            if sources:
                filesystem(target).get(sources, [str(file) for file in names.values()])
        wrong = [n for n, file in names.items() if file.stat().st_size != sizes[n]]
    except FileNotFoundError as error:
        wrong = [str(error)]
    if wrong:
        shutil.rmtree(copy.parent, ignore_errors=True)
        raise IncompleteFolder(
            f"{address}: incomplete, {wrong[0]} is missing or has another size; upload it again",
            source=address,
        )
    copies.add(key or address, copy, total)
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


def file_sizes(folder: AnyPath) -> dict[str, int]:
    """Return the files in a folder, but not those in its subfolders, with their sizes in bytes."""
    if is_remote(folder):
        return {n: size for n, size in _sizes(folder, max_depth=1).items() if "/" not in n}
    return {file.name: file.stat().st_size for file in Path(folder).iterdir() if file.is_file()}


def _sizes(target: AnyPath, max_depth: int | None = None) -> dict[str, int]:
    """The files of a folder and their sizes in bytes; {"": size} for a single file.

    Args:
      max_depth: 1 leaves out subfolders where there is no marker.
    """
    marker = b""
    with contextlib.suppress(FileNotFoundError):
        marker = (target / MARKER).read_bytes()
    # without a marker, or with one that cannot be parsed, the folder is listed
    with contextlib.suppress(ValueError, LookupError, TypeError, AttributeError, RecursionError):
        files = json.loads(marker)["files"]
        if all(_is_inside(name) for name in files):
            return {name: int(size) for name, size in files.items()}
    entries: dict[str, Any] = {}
    with contextlib.suppress(FileNotFoundError), store_errors(target):
        entries = filesystem(target).find(os.fspath(target), maxdepth=max_depth, detail=True)
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
