"""The exception for user errors."""

import os


class BadInput(ValueError):
    """Raised when an input given by the user cannot be used.

    The message is one line: the file or option, the field, what is wrong, and how to fix it. `pav`
    prints it and exits with status 2.

    Attributes:
      source: the file, option or argument that is wrong; None if unknown.
      field: the dotted field, option or argument name within `source`; None if there is none.
    """

    def __init__(
        self,
        message: str,
        source: str | os.PathLike | None = None,
        field: str | None = None,
    ):
        super().__init__(" ".join(message.split()))
        self.source = None if source is None else os.fspath(source)
        self.field = field
