"""Atomic writes of files, on a local disk or an object store."""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from pav_jax.errors import BadInput
from pav_jax.storage.addresses import as_path, filesystem, is_remote, store_errors
from pav_jax.storage.scratch import temporary_folder

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def read_bounded(path: str | os.PathLike, limit: int) -> bytes:
    """Read a regular file, local or in an object store, of at most `limit` bytes.

    Raises:
      OSError: there is none, or it is larger, a directory or a device.
    """
    if not is_remote(path):
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, "it is a directory")
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        if status.st_size > limit:
            reason = f"it has {status.st_size} bytes, more than {limit}"
            raise OSError(errno.EFBIG, reason)
    return as_path(path).read_bytes()


def write_atomic(path: str | os.PathLike, data: bytes) -> None:
    """Write a file under a temporary name and rename it; on an object store, with one PUT.

    Readers see the old file or the new one, never a part of it. Missing parent folders are created.

    Raises:
      BadInput: the disk is full or the folder cannot be written. No partial file is left.
    """
    target = as_path(path)
    if is_remote(target):
        with store_errors(target, writing=True):
            filesystem(target).pipe_file(os.fspath(target), data)
        return
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # a full disk may be reported only here
        part.replace(target)
    except OSError as error:
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
    """Yield a temporary local path; its file becomes `path` at the end.

    For writers that need a file name rather than bytes. Nothing is left behind after an error.
    """
    target = as_path(path)
    if is_remote(target):
        with temporary_folder() as folder:
            yield folder / target.name
            with store_errors(target, writing=True):
                filesystem(target).put_file(str(folder / target.name), os.fspath(target))
        return
    target = Path(target)
    part = target.with_name(target.name + ".part")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield part
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
