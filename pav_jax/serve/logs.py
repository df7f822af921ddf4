"""The log of a server: what happened, and nothing of what users or the model wrote.

Any library may quote a prompt in a warning or in the message of an exception. So only the server's
own loggers write texts. Of other loggers, of `warnings` and of exceptions that nobody catches, the
log has the level, the types of the exceptions and the places in the code.
"""

import contextlib
import contextvars
import logging
import secrets
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from typing import Any, TextIO

OWN_LOGGER = "pav_jax.serve"
LOG = logging.getLogger(OWN_LOGGER)
PACKAGE_LOG = logging.getLogger("pav_jax")
FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
WITHHELD = "text withheld"
# of the request that the current task or thread works for
_request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="")


def new_request_id() -> str:
    """Choose the id of a request, which `request_id` returns from now on in this context."""
    _request_id.set(f"req-{secrets.token_hex(8)}")
    return _request_id.get()


def request_id() -> str:
    """Return the id of the request in work; "" outside one."""
    return _request_id.get()


def describe(error: BaseException) -> str:
    """Return the types of an exception and of its causes, and the lines of code it came from.

    Its message, notes and arguments may hold something of a prompt; lines of code do not.
    """
    names = []
    cause: BaseException | None = error
    while cause is not None and len(names) < 10:  # chains may be circular
        names.append(type(cause).__name__)
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    places = "".join(traceback.format_tb(error.__traceback__))
    return f"{' from '.join(names)}\n{places}".rstrip()


@contextlib.contextmanager
def texts_withheld(stream: TextIO) -> Iterator[None]:
    """Write the log of this process to a stream, without the texts of others; undone at the end.

    The stream's handler replaces those of the root logger and of the package, so that no line is
    written twice. It holds for handlers and loggers that libraries add later, too: texts are left
    out where records are made.
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter(FORMAT))
    with contextlib.ExitStack() as undo:
        undo.callback(LOG.setLevel, LOG.level)
        LOG.setLevel(logging.INFO)
        undo.callback(logging.setLogRecordFactory, logging.getLogRecordFactory())
        logging.setLogRecordFactory(_make_record)
        # raiseExceptions: handlers that fail would print the record with its arguments
        for place, name, value in (
            (logging.getLogger(), "handlers", [handler]),
            (PACKAGE_LOG, "handlers", []),  # those of a stage that ran
            (PACKAGE_LOG, "propagate", True),
            (logging, "raiseExceptions", False),
            (warnings, "showwarning", _show_warning),
            (threading, "excepthook", _show_thread_exception),
            (sys, "unraisablehook", _show_unraisable),
        ):
            undo.callback(setattr, place, name, getattr(place, name))
            setattr(place, name, value)
        yield


def _make_record(
    name: str,
    level: int,
    path: str,
    line: int,
    message: object,
    args: Any,
    exc_info: Any,
    func: str | None = None,
    sinfo: str | None = None,
    **kwargs: Any,
) -> logging.LogRecord:
    """A record; without texts if the logger is another's."""
    if name == OWN_LOGGER or name.startswith(f"{OWN_LOGGER}."):
        return logging.LogRecord(
            name, level, path, line, message, args, exc_info, func, sinfo, **kwargs
        )
    text = f"{WITHHELD} ({path}:{line})"
    error = exc_info[1] if isinstance(exc_info, tuple) else None
    if error is not None:
        text = f"{text} {describe(error)}"
    return logging.LogRecord(name, level, path, line, text, (), None, func)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """A warning of `warnings`."""
    del message, file, line
    LOG.warning("%s: %s (%s:%d)", category.__name__, WITHHELD, filename, lineno)


def _show_thread_exception(args: Any) -> None:
    """An exception that ended a thread."""
    if args.exc_value is not None:
        LOG.error("a thread ended: %s", describe(args.exc_value))


def _show_unraisable(args: Any) -> None:
    """An exception that could not be raised, as in a finalizer."""
    if args.exc_value is not None:
        LOG.error("an exception was ignored: %s", describe(args.exc_value))
