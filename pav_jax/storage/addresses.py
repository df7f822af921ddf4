"""Paths on a local disk and in object stores: `gs://bucket/name` and `s3://bucket/name`.

`as_path` is the only place that makes a path of an address. Requests go through fsspec with gcsfs
and s3fs, one client per process; these libraries also retry 5xx responses, lost connections and
slow answers.
"""

import contextlib
import functools
import importlib.util
import logging
import os
import posixpath
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from etils import epath
from etils.epath import backend, gpath

from pav_jax.errors import BadInput, TemporaryFailure

# scheme -> (package of the client, extra of pav-jax that installs it)
CLIENTS = {"gs": ("gcsfs", "gcs"), "s3": ("s3fs", "s3")}
PREFIXES = tuple(f"{scheme}://" for scheme in CLIENTS)
CONNECT_TIMEOUT_S = 20
READ_TIMEOUT_S = 60  # without a byte; the request is then sent again
MAX_ATTEMPTS = 6
# of HTTP: time-out, too early, too many requests; those from 500 on are passing too
PASSING_STATUSES = (408, 425, 429)
SERVER_ERROR = 500
# names of exceptions without a status, of Python, aiohttp, botocore, requests and google-api-core
PASSING_ERRORS = {
    "ClientConnectionError",
    "ClientPayloadError",
    "ConnectionError",
    "HTTPClientError",
    "RequestException",
    "RetryError",
    "TimeoutError",
}

ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)

AnyPath: TypeAlias = Path | epath.Path


def is_remote(path: str | os.PathLike) -> bool:
    """Whether `path` is the address of an object store's file or folder: gs://bucket/run."""
    return ADDRESS.match(os.fspath(path)) is not None


def as_path(path: str | os.PathLike) -> AnyPath:
    """The path of an address: a `pathlib.Path`, or for an object store a path with its methods.

    Raises:
      BadInput: the object store is unknown, its client is not installed, or no bucket is named.
    """
    address = os.fspath(path)
    if not is_remote(address):
        return Path(address)
    scheme, _, rest = address.partition("://")
    if scheme not in CLIENTS:
        raise BadInput(
            f"{address}: {scheme}:// is no known object store; give a local path, gs://... or"
            " s3://...",
            source=address,
        )
    if not rest.strip("/"):
        raise BadInput(f"{address}: names no bucket; write {scheme}://BUCKET/...", source=address)
    _configure(scheme)
    return StorePath(address)


class StorePath(gpath.PosixGPath):
    """A path in an object store.

    A folder exists while an object is below it, so `mkdir` does nothing. A missing object raises
    FileNotFoundError as a missing file does; whatever else the store answers raises BadInput.
    """

    def exists(self) -> bool:
        """Whether there is an object of this name or below it."""
        with store_errors(self):
            return super().exists()

    def is_dir(self) -> bool:
        """Whether there is an object below this name."""
        return self._kind() == "directory"

    def is_file(self) -> bool:
        """Whether there is an object of this name."""
        return self._kind() == "file"

    def _kind(self) -> str | None:
        """ "file" or "directory"; None if there is neither.

        isdir and isfile of fsspec answer False where the store refuses or fails.
        """
        try:
            with store_errors(self):
                return filesystem(self).info(os.fspath(self))["type"]
        except FileNotFoundError:
            return None

    def iterdir(self) -> "Iterator[StorePath]":
        """The children, with one request."""
        yield from (self / name for name in list_names(self))

    def open(self, mode: str = "r", **options: Any) -> Any:
        """Open the object."""
        with store_errors(self):
            return super().open(mode, **options)

    def read_bytes(self) -> bytes:
        """The content, with one request."""
        return read_many([self])[0]

    def read_text(self, encoding: str | None = None, errors: str | None = None) -> str:
        """The content as text, with one request."""
        text = self.read_bytes().decode(encoding or "utf-8", errors or "strict")
        return text.replace("\r\n", "\n").replace("\r", "\n")  # as open() does

    def mkdir(self, mode: int | None = None, parents: bool = False, exist_ok: bool = False) -> None:
        """Do nothing."""
        del mode, parents, exist_ok

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the object."""
        try:
            with store_errors(self):
                filesystem(self).rm_file(os.fspath(self))
        except FileNotFoundError:
            if not missing_ok:
                raise

    def resolve(self, strict: bool = False) -> "StorePath":
        """The path without `..`; addresses are absolute."""
        del strict
        scheme, _, rest = os.fspath(self).partition("://")
        return type(self)(f"{scheme}://{posixpath.normpath(rest)}")

    def absolute(self) -> "StorePath":
        """The path itself."""
        return self

    def __reduce__(self) -> Any:
        return as_path, (os.fspath(self),)


# ---------------------------------------------------------------------------------------- requests


def filesystem(path: str | os.PathLike) -> Any:
    """The process's fsspec client for the object store of `path`, or for the local disk."""
    address = os.fspath(path)
    if is_remote(address):
        _configure(address.partition("://")[0])
    return backend.fsspec_backend.fs(address)


def list_names(folder: AnyPath) -> list[str]:
    """The names in a folder, sorted, with one request; none if there is no folder."""
    try:
        if not is_remote(folder):
            return sorted(os.listdir(folder))
        with store_errors(folder):
            paths = filesystem(folder).ls(os.fspath(folder), detail=False)
    except (FileNotFoundError, NotADirectoryError):
        return []
    # the folder's own name is listed where a tool made an empty object for it
    names = {path.rstrip("/").rpartition("/")[2]: path for path in paths}
    own = os.fspath(folder).partition("://")[2].rstrip("/")
    return sorted(name for name, path in names.items() if path.rstrip("/") != own)


def read_many(paths: Sequence[AnyPath]) -> list[bytes]:
    """The contents of files: from an object store concurrently, with one request each.

    Raises:
      FileNotFoundError: one does not exist.
    """
    if not paths or not is_remote(paths[0]):
        return [path.read_bytes() for path in paths]
    names = [os.fspath(path) for path in paths]
    client = filesystem(names[0])
    with store_errors(paths[0]):
        contents = client.cat(names, on_error="raise")
    if isinstance(contents, bytes):  # of a single path
        return [contents]
    return [contents[client._strip_protocol(name)] for name in names]


@contextlib.contextmanager
def store_errors(path: str | os.PathLike, writing: bool = False) -> Iterator[None]:
    """Turn what an object store's client raises into BadInput.

    Args:
      writing: FileNotFoundError says that there is no such bucket; otherwise it is passed on.

    Raises:
      TemporaryFailure: the store failed or did not answer, also when asked again.
      BadInput: it refused.
    """
    try:
        yield
    except FileNotFoundError as error:
        if not writing:
            raise
        raise BadInput(
            f"{os.fspath(path)}: cannot be written, there is no such bucket; make it or correct the"
            " address",
            source=path,
        ) from error
    except BadInput:
        raise
    except Exception as error:  # of many libraries: aiohttp, botocore, google.auth, ...
        reason = str(error).strip() or type(error).__name__
        kind = TemporaryFailure if _may_pass(error) else BadInput
        raise kind(
            f"{os.fspath(path)}: the object store refused or did not answer ({reason:.300}); check"
            " the name, the permissions and the login, then run the same command again: finished"
            " work is kept",
            source=path,
        ) from error


def _may_pass(error: Exception) -> bool:
    """Whether the same request may succeed later, as after a status of 503 or a time-out."""
    cause: BaseException | None = error
    while cause is not None:
        if (status := _http_status(cause)) is not None:
            return status in PASSING_STATUSES or status >= SERVER_ERROR
        cause = cause.__cause__  # s3fs raises OSError from botocore's error
    return any(kind.__name__ in PASSING_ERRORS for kind in type(error).__mro__)


def _http_status(error: BaseException) -> int | None:
    """The HTTP status in an error of gcsfs, google-api-core or botocore; None if it has none."""
    status = getattr(error, "code", None)
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status if isinstance(status, int) else None


# ----------------------------------------------------------------------------------- configuration


@functools.cache
def _configure(scheme: str) -> None:
    """Choose and configure the client of an object store, before it is made.

    Raises:
      BadInput: the client is not installed.
    """
    package, extra = CLIENTS[scheme]
    if importlib.util.find_spec(package) is None:
        raise BadInput(
            f"{scheme}://: needs the package {package}; pip install 'pav-jax[{extra}]'",
            source=f"{scheme}://",
        )
    import fsspec.config

    os.environ.setdefault("EPATH_USE_TF", "0")  # fsspec also where TensorFlow is installed
    # objects appear and vanish through other processes and through TensorStore
    settings: dict[str, Any] = {"use_listings_cache": False}
    if scheme == "gs":
        # without it gcsfs asks for the type of the bucket at every access, and warns
        os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        import aiohttp

        settings["session_kwargs"] = {
            "timeout": aiohttp.ClientTimeout(
                sock_connect=CONNECT_TIMEOUT_S, sock_read=READ_TIMEOUT_S
            )
        }
    else:
        settings["config_kwargs"] = {
            "connect_timeout": CONNECT_TIMEOUT_S,
            "read_timeout": READ_TIMEOUT_S,
            "retries": {"mode": "standard", "max_attempts": MAX_ATTEMPTS},
        }
    name = "gcs" if scheme == "gs" else scheme
    user_settings = fsspec.config.conf.get(name, {})
    fsspec.config.conf[name] = settings | user_settings
    # JAX's cache of compiled programs may have made a client already, which lacks these settings
    backend.fsspec_backend._get_filesystem.cache_clear()
    # it logs, with a traceback, what it also raises
    logger = logging.getLogger(package)
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.CRITICAL)
