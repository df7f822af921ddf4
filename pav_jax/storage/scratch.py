"""Local scratch of this process: copies of what is in object stores, and folders to be uploaded.

It is a folder of its own below PAV_SCRATCH, by default the system's folder for temporary files. It
is removed when the process ends; what a killed process left is removed by the next one. Copies of
at most PAV_SCRATCH_GB gigabytes are kept, by default half of the free space: the copy that was used
the longest time ago is removed first.
"""

import atexit
import contextlib
import fcntl
import functools
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from pav_jax.errors import BadInput

FOLDER_ENV = "PAV_SCRATCH"
LIMIT_ENV = "PAV_SCRATCH_GB"
PREFIX = "pav-scratch-"
LOCK = "lock"


@functools.cache
def folder() -> Path:
    """This process's scratch folder.

    Raises:
      BadInput: it cannot be made.
    """
    parent = Path(os.environ.get(FOLDER_ENV) or tempfile.gettempdir())
    try:
        parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(parent)
        own = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        # under its name the file is locked from the start: it never looks abandoned
        lock = _lock(own / "new")
        os.replace(own / "new", own / LOCK)
    except OSError as error:
        raise BadInput(
            f"{parent}: no scratch folder can be made here ({error.strerror}); set {FOLDER_ENV} to"
            " a folder with free space",
            source=FOLDER_ENV,
        ) from error
    atexit.register(_remove, own, lock)
    return own


@contextlib.contextmanager
def temporary_folder(name: str = "folder") -> Iterator[Path]:
    """Yield a new, empty scratch folder called `name`; it is removed at the end of the block."""
    parent = Path(tempfile.mkdtemp(dir=folder()))
    try:
        (parent / name).mkdir()
        yield parent / name
    finally:
        shutil.rmtree(parent, ignore_errors=True)


class Copies:
    """The local copies of addresses, of limited total size."""

    def __init__(self):
        self._paths: dict[str, tuple[Path, int]] = {}  # address -> (copy, bytes), by last use
        self.lock = threading.RLock()  # hold it to look for a copy and make it

    def get(self, address: str) -> Path | None:
        """The copy of an address; None if there is none."""
        if address not in self._paths:
            return None
        self._paths[address] = self._paths.pop(address)  # the last one is the last used
        return self._paths[address][0]

    def new(self, address: str, size: int) -> Path:
        """A new folder for a copy of `size` bytes; older copies are removed where space is short.

        Raises:
          BadInput: there is not enough space.
        """
        while self._paths and self._used() + size > limit():
            self.forget(next(iter(self._paths)))
        if size > shutil.disk_usage(folder()).free:
            raise BadInput(
                f"{address}: {size / 1e9:.1f} GB do not fit on the disk of {folder()}; free disk"
                f" space, or set {FOLDER_ENV} to a folder with more",
                source=FOLDER_ENV,
            )
        return Path(tempfile.mkdtemp(dir=folder()))

    def add(self, address: str, path: Path, size: int) -> None:
        """Keep the copy at `path`, in a folder that `new` gave."""
        self._paths[address] = (path, size)

    def forget(self, address: str) -> None:
        """Remove the copy of an address, if there is one."""
        path, _ = self._paths.pop(address, (None, 0))
        if path is not None:
            shutil.rmtree(path.parent, ignore_errors=True)

    def _used(self) -> int:
        return sum(size for _, size in self._paths.values())


copies = Copies()


@functools.cache
def limit() -> int:
    """The largest size of all copies together, in bytes.

    Raises:
      BadInput: PAV_SCRATCH_GB is not a positive number.
    """
    text = os.environ.get(LIMIT_ENV)
    if not text:
        return shutil.disk_usage(folder()).free // 2
    try:
        gigabytes = float(text)
    except ValueError:
        gigabytes = 0.0
    if not 0 < gigabytes < float("inf"):
        raise BadInput(
            f"{LIMIT_ENV}={text!r}: give a positive number of gigabytes", source=LIMIT_ENV
        )
    return int(gigabytes * 1e9)


def _lock(path: Path, mode: str = "w") -> IO:
    """Lock a file until this process ends or closes it.

    Raises:
      OSError: another process has locked it, or it cannot be opened.
    """
    file = open(path, mode)  # noqa: SIM115  (open as long as the process runs)
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return file


def _remove(path: Path, lock: IO) -> None:
    shutil.rmtree(path, ignore_errors=True)
    lock.close()


def _remove_abandoned(parent: Path) -> None:
    """Remove the scratch folders of processes that were killed."""
    for path in parent.glob(PREFIX + "*"):
        try:
            with _lock(path / LOCK, "r+"):  # a folder that is just being made has no such file
                shutil.rmtree(path, ignore_errors=True)
        except OSError:
            continue  # in use, or another user's
