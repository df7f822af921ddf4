"""Atomic writes of files, on a local disk or an object store."""

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from pav_jax.errors import BadInput
from pav_jax.storage.addresses import AnyPath, as_path, filesystem, is_remote, store_errors
from pav_jax.storage.scratch import temporary_folder

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
RUST_ERRNO = re.compile(r"\(os error (\d+)\)")
MAX_NAME_IN_MESSAGE = 200


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
            raise OSError(errno.EINVAL, "it is not a regular file")
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
        with writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())  # a full disk may be reported only here
            part.replace(target)
    except BadInput:
        _remove_file(part)
        raise


@contextlib.contextmanager
def writing(target: str | os.PathLike) -> Iterator[None]:
    """Report what keeps `target` from being written as one line.

    Raises:
      BadInput: the disk is full, or the path cannot be one of a file or folder there.
    """
    try:
        yield
    # making the folders above a path of very many parts is recursive
    except (OSError, UnicodeError, SafetensorError, RecursionError) as error:
        raise _unwritable(target, error) from error
    except ValueError as error:
        if isinstance(error, BadInput) or "null" not in str(error):  # an embedded null byte
            raise
        raise _unwritable(target, error) from error


def check_writable(target: str | os.PathLike, source: str) -> None:
    """Check that a local file or folder can be made at `target`, before work is spent on it.

    Args:
      source: the option, for the message.

    Raises:
      BadInput: the nearest folder above it is a file, a link to nothing or not writable, or the
        name cannot be one of a file.
    """
    if is_remote(target):
        return
    with writing(target):
        path = os.path.abspath(target)
        while not os.path.lexists(path):
            try:
                os.stat(path)
            except (FileNotFoundError, NotADirectoryError):
                path = os.path.dirname(path)
        parent = path if path != os.path.abspath(target) else os.path.dirname(path)
        if not os.path.exists(path):
            raise BadInput(f"{source}={target}: {path} is a link to nothing", source=source)
        if not os.path.isdir(parent):
            raise BadInput(
                f"{source}={target}: {parent} is a file; name a path in a folder", source=source
            )
        if not os.access(parent, os.W_OK | os.X_OK):
            raise BadInput(
                f"{source}={target}: {parent} is not writable; choose another folder",
                source=source,
            )


def _unwritable(target: str | os.PathLike, error: Exception) -> BadInput:
    number = getattr(error, "errno", None)
    if match := RUST_ERRNO.search(str(error)):  # safetensors keeps the text of the system's error
        number = int(match[1])
    reason = os.strerror(number) if number else str(error)
    advice = "choose another path"
    if number in DISK_FULL:
        reason = "no space left on device"
        advice = "finished work is kept; free disk space and run the same command again"
    elif isinstance(error, UnicodeError):
        reason = "the name is not valid text"
    elif isinstance(error, RecursionError):
        reason = "the path has too many parts"
    name = os.fspath(target)
    if len(name) > MAX_NAME_IN_MESSAGE:
        name = f"{name[:MAX_NAME_IN_MESSAGE]}..."
    return BadInput(f"{name}: could not be written ({reason}); {advice}", source=target)


def _remove_file(part: AnyPath) -> None:
    """Remove a temporary file where there is one; the error before is the one to report."""
    with contextlib.suppress(OSError, ValueError):
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary local path; its file becomes `path` at the end.

    For writers that need a file name rather than bytes. Nothing is left behind after an error.

    Raises:
      BadInput: the disk is full or the file cannot be written.
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
    try:
        with writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            yield part
            os.replace(part, target)
    finally:
        _remove_file(part)
