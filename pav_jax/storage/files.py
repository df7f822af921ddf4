"""Atomic writes of files and folders, on a local disk or an object store."""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from etils import epath

from pav_jax.errors import BadInput

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def is_remote(path: str | os.PathLike) -> bool:
    """Whether `path` is in an object store, such as `gs://bucket/run`."""
    return "://" in os.fspath(path)


def write_atomic(path: str | os.PathLike, data: bytes) -> None:
    """Write a file under a temporary name and rename it; on an object store, with one PUT.

    Readers see the old file or the new one, never a part of it. Missing parent folders are created.

    Raises:
      BadInput: the disk is full or the folder cannot be written. No partial file is left.
    """
    target = epath.Path(path)
    remote = is_remote(path)  # an object store shows a new object only when it is complete
    part = target if remote else target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.write(data)
            if not remote:
                file.flush()
                os.fsync(file.fileno())  # a full disk may be reported only here
        if not remote:
            part.replace(target)
    except OSError as error:
        if not remote:
            part.unlink(missing_ok=True)
        full = error.errno in DISK_FULL
        reason = "no space left on device" if full else error.strerror or error
        raise BadInput(
            f"{target}: could not be written ({reason}); finished work is kept; free disk space"
            " and run the same command again",
            source=target,
        ) from error


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path in the folder of the local `path`; it becomes `path` at the end.

    For writers that need a file name rather than bytes. Nothing is left behind after an error.
    """
    target = Path(path)
    part = target.with_name(target.name + ".part")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield part
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Yield an empty temporary folder beside the local `path`; it replaces `path` at the end.

    Nothing is left behind after an error, and an older folder at `path` is then unchanged.
    """
    target = Path(path)
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        if target.exists():
            shutil.rmtree(target)
        os.replace(part, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
