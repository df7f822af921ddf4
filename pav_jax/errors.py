"""The exceptions for user errors, and for failures that may pass."""

import os
from typing import ClassVar

from pav_jax.redaction import redact

MAX_LINE = 1500  # characters of a message, which may quote what was given


def _shortened(line: str) -> str:
    """A line without the middle of a long one; what to do is at its end."""
    half = MAX_LINE // 2
    return line if len(line) <= MAX_LINE else f"{line[:half]} ... {line[-half:]}"


class BadInput(ValueError):
    """Raised when an input given by the user cannot be used.

    The message is one line: the file or option, the field, what is wrong, and how to fix it. `pav`
    prints it and exits with status `exit_status`. Logins and keys in it are redacted.

    Attributes:
      source: the file, option or argument that is wrong; None if unknown.
      field: the dotted field, option or argument name within `source`; None if there is none.
    """

    exit_status: ClassVar[int] = 2

    def __init__(
        self,
        message: str,
        source: str | os.PathLike | None = None,
        field: str | None = None,
    ):
        line = _shortened(redact(" ".join(message.split())))
        # bytes of a file name that are not text are lone surrogates, which no encoding has
        super().__init__(line.encode("utf-8", "backslashreplace").decode())
        self.source = None if source is None else redact(os.fspath(source))
        self.field = field


class TemporaryFailure(BadInput):
    """Raised when a file or a host cannot be reached for a reason that may pass.

    The same command may succeed later, so launch scripts run it again on this exit status.
    """

    exit_status = 1


class BudgetReached(BadInput):
    """Raised when a limit of the section `budget` is reached; finished work is kept."""

    exit_status = 3
