"""Read a text file, such as one of prompts, within limits and with one-line errors."""

import os

from pav_jax.checkpoints.hub import local_file
from pav_jax.errors import BadInput
from pav_jax.storage.addresses import as_path

MAX_BYTES = 64 << 20
PROMPTS = "a .txt or .jsonl file of prompts"


def read_prompt_file(
    path: str | os.PathLike, field: str | None = None, expected: str = PROMPTS
) -> str:
    """The text of a file, a pipe such as `/dev/fd/63`, or `mini:...` of this package.

    Args:
      field: the field or option that names the file, for the message.
      expected: what the file should be, for the message.

    Raises:
      BadInput: it is missing, a folder, too large, not UTF-8 text, or cannot be read.
    """
    path = os.fspath(path)
    name = f"{field}={path}"[:300] if field else path[:300]
    if not path:
        raise BadInput(f"{name}: no file is named; give {expected}", path, field)
    try:
        with as_path(local_file(path)).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise BadInput(f"{name}: no such file; give {expected}", path, field) from None
    except IsADirectoryError:
        raise BadInput(f"{name}: this is a folder; give {expected}", path, field) from None
    except (OSError, ValueError) as error:
        if isinstance(error, BadInput):
            raise
        reason = getattr(error, "strerror", None) or error
        raise BadInput(f"{name}: cannot be read ({reason})", path, field) from error
    return decode_prompts(data, name, path, field)


def decode_prompts(data: bytes, name: str, source: str, field: str | None = None) -> str:
    """Decode the content of a file; a byte order mark is left out.

    Args:
      name: what messages call the file.

    Raises:
      BadInput: the file is too large, or not UTF-8.
    """
    if len(data) > MAX_BYTES:
        raise BadInput(f"{name}: over {MAX_BYTES >> 20} MiB; split the file", source, field)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise BadInput(
            f"{name}:{line}: not UTF-8 text; save the file as UTF-8", source, field
        ) from error
