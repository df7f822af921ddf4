"""A lock on a work directory: only one run may write into it, on a disk or in an object store.

On a disk the operating system holds the lock, and releases it when the process dies in whatever
way. In an object store, and on file systems without locks, an object names the owner, who writes
the time into it every REFRESH_S; one that was not refreshed for EXPIRE_S belongs to nobody.
"""

import _thread
import contextlib
import dataclasses
import datetime
import errno
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

from pav_jax.errors import BadInput
from pav_jax.storage.addresses import as_path, filesystem, is_remote, store_errors

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None

log = logging.getLogger(__name__)

FILE = ".lock"
REFRESH_S = 10.0
EXPIRE_S = 60.0
POLL_S = 0.5
LOCKED = (errno.EACCES, errno.EAGAIN)
UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)

_held: dict[str, int] = {}  # location -> how often this process has entered the lock
_guard = threading.RLock()


@dataclasses.dataclass(frozen=True)
class Holder:
    """Who holds a lock, as its file says.

    Attributes:
      owner: a random name; distinguishes two runs of one process id.
      started: local time with its zone, ISO 8601.
      time: seconds since the epoch when it was last refreshed.
    """

    owner: str
    host: str
    pid: int
    started: str
    time: float

    @classmethod
    def this_process(cls) -> "Holder":
        """A new owner in this process."""
        started = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        return cls(uuid.uuid4().hex, socket.gethostname(), os.getpid(), started, time.time())

    @classmethod
    def from_bytes(cls, data: bytes) -> "Holder | None":
        """The holder that a lock file names; None if the file is incomplete."""
        try:
            values = json.loads(data)
            holder = cls(**values)
            return dataclasses.replace(holder, pid=int(holder.pid), time=float(holder.time))
        except (ValueError, TypeError, RecursionError, OverflowError):
            return None

    def to_bytes(self) -> bytes:
        """The content of a lock file, with the present time."""
        return json.dumps(dataclasses.asdict(self) | {"time": time.time()}).encode()

    def is_dead(self) -> bool:
        """Whether the process was on this machine and has ended; False if that is unknown."""
        if self.host != socket.gethostname():
            return False
        if self.pid == os.getpid():  # of a container that was started again
            return True
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except (OSError, OverflowError):  # another user's process
            return False
        return False

    def is_running_here(self) -> bool:
        """Whether the process is on this machine and has refreshed the lock recently."""
        is_recent = abs(time.time() - self.time) < EXPIRE_S
        return self.host == socket.gethostname() and not self.is_dead() and is_recent


@contextlib.contextmanager
def workdir_lock(workdir: str | os.PathLike) -> Iterator[None]:
    """Hold the lock of a work directory; a process that holds it may enter again.

    Raises:
      BadInput: another process holds it, or the folder cannot be written.
    """
    folder = os.fspath(workdir)
    try:
        location = folder if is_remote(folder) else os.path.realpath(folder)
    except (ValueError, RecursionError) as error:  # no name of a folder
        raise _unusable(folder, error) from error
    with _guard:
        lock = None if location in _held else _acquire(location, folder)
        _held[location] = _held.get(location, 0) + 1
    try:
        yield
    finally:
        with _guard:
            _held[location] -= 1
            if not _held[location]:
                del _held[location]
        if lock is not None:
            lock.release()


def _acquire(location: str, folder: str) -> Any:
    if not is_remote(location):
        try:
            os.makedirs(location, exist_ok=True)
            if fcntl is not None:
                return _FileLock(os.path.join(location, FILE), folder)
        except (FileExistsError, NotADirectoryError):
            raise BadInput(
                f"--workdir={folder}: this is a file; name a folder", source="--workdir"
            ) from None
        except (OSError, ValueError, RecursionError) as error:
            if getattr(error, "errno", None) not in UNSUPPORTED:
                raise _unusable(folder, error) from error
    return _ObjectLock(f"{location.rstrip('/')}/{FILE}", folder)


def _unusable(folder: str, error: Exception) -> BadInput:
    reason = getattr(error, "strerror", None) or error
    return BadInput(
        f"--workdir={folder}: cannot be written ({reason}); give a folder of yours",
        source="--workdir",
    )


class _FileLock:
    """A record lock of the operating system, which forked children do not inherit."""

    def __init__(self, path: str, folder: str):
        assert fcntl is not None
        self._path = path
        while True:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                content = os.pread(self._file, 4096, 0)
                os.close(self._file)
                if error.errno in LOCKED:
                    raise _locked(folder, path, Holder.from_bytes(content)) from None
                if not content:  # made just now
                    os.unlink(path)
                raise
            if self._is_current():
                break
            os.close(self._file)  # its last holder has just deleted it
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, Holder.this_process().to_bytes(), 0)

    def _is_current(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._file), os.stat(self._path))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Delete the file, then let go of it."""
        with contextlib.suppress(OSError):
            os.unlink(self._path)
        os.close(self._file)


class _ObjectLock:
    """An object that names its owner and is refreshed while the owner lives."""

    def __init__(self, address: str, folder: str):
        self._address = address
        as_path(address)  # an address of no known store is refused
        self._store = filesystem(address)
        self._path = address
        self._holder = Holder.this_process()
        self._stopped = threading.Event()
        self._create(folder)
        self._thread = threading.Thread(target=self._refresh, name="workdir lock", daemon=True)
        self._thread.start()

    def _create(self, folder: str) -> None:
        """Create the object, as soon as it belongs to nobody."""
        first = None
        deadline = time.monotonic() + EXPIRE_S
        while not self._created(folder):
            holder = self._read()
            if holder is None:
                continue  # it was deleted in between
            if holder.is_running_here() or (first and holder != first and not holder.is_dead()):
                raise _locked(folder, self._address, holder)
            if holder.is_dead() or time.monotonic() > deadline:
                self._delete()
                continue
            if first is None:
                first = holder
                log.warning("%s", _waiting(folder, holder))
            time.sleep(POLL_S)

    def _created(self, folder: str) -> bool:
        with store_errors(f"--workdir={folder}", writing=True):
            try:
                self._store.pipe_file(self._path, self._holder.to_bytes(), mode="create")
            except FileExistsError:
                return False
        return True

    def _read(self) -> Holder | None:
        """The holder that the object names, an unknown one if it is corrupt; None without one."""
        try:
            with store_errors(self._address):
                data = self._store.cat_file(self._path)
        except FileNotFoundError:
            return None
        return Holder.from_bytes(data) or Holder("", "an unknown host", 0, "at an unknown time", 0)

    def _delete(self) -> None:
        with contextlib.suppress(FileNotFoundError), store_errors(self._address):
            self._store.rm_file(self._path)

    def _refresh(self) -> None:
        while not self._stopped.wait(REFRESH_S):
            try:
                holder = self._read()
                if holder is not None and holder.owner != self._holder.owner:
                    log.error(
                        "%s: process %d on %s has taken over this work directory; this run ends",
                        self._address,
                        holder.pid,
                        holder.host,
                    )
                    _thread.interrupt_main()
                    return
                self._store.pipe_file(self._path, self._holder.to_bytes())
            except Exception as error:  # a store that does not answer now may do so later
                log.debug("%s: not refreshed (%s)", self._address, error)

    def release(self) -> None:
        """Stop refreshing and delete the object, if it is still this process's."""
        self._stopped.set()
        self._thread.join(REFRESH_S)
        with contextlib.suppress(BadInput):  # a lock that could not be deleted expires
            holder = self._read()
            if holder is not None and holder.owner == self._holder.owner:
                self._delete()


def _waiting(folder: str, holder: Holder) -> str:
    return (
        f"{folder}: process {holder.pid} on {holder.host} was at work here; waiting up to"
        f" {EXPIRE_S:.0f} s for a sign of life"
    )


def _locked(folder: str, path: str, holder: Holder | None) -> BadInput:
    who = "another process"
    if holder is not None:
        who = f"process {holder.pid} on {holder.host}, started {holder.started},"
    return BadInput(
        f"--workdir={folder}: {who} is at work here (it holds {path}); wait until it ends, stop it,"
        " or give another --workdir",
        source="--workdir",
    )
