"""The one exception a user may cause."""


class BadInput(Exception):
    """Something the user gave cannot be used. The message is one line: what, where (file, field),
    and how to mend it.

    `pav` prints the message and exits with status 2; library callers catch it like any exception.
    """

    def __init__(self, message: str):
        super().__init__(" ".join(message.split()))
