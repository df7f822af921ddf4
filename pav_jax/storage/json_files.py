"""JSON files: read with one-line errors, written atomically."""

import codecs
import json
import os
from typing import Any

from pav_jax.errors import BadInput
from pav_jax.redaction import redact_known
from pav_jax.storage.addresses import as_path
from pav_jax.storage.files import read_bounded, write_atomic
from pav_jax.typed_fields import check_object

MAX_JSON_BYTES = 2**28


def read_json(path: str | os.PathLike) -> dict[str, Any]:
    """Read a file that contains one JSON object, local or in an object store.

    Raises:
      BadInput: the file is missing, no regular file, too large, or does not contain a JSON object
        in UTF-8.
    """
    path = as_path(path)
    try:
        data = read_bounded(path, MAX_JSON_BYTES)
    except FileNotFoundError:
        raise BadInput(
            f"{path}: no such file; check that the folder is complete", source=path
        ) from None
    except OSError as error:
        raise BadInput(
            f"{path}: cannot be read ({error.strerror or error}); check the file and its"
            " permissions",
            source=path,
        ) from error
    content = parse_json(data.removeprefix(codecs.BOM_UTF8), path)
    return dict(check_object(content, os.fspath(path)))


def parse_json(
    data: bytes | str, source: str | os.PathLike, fix: str = "download or write it again"
) -> Any:
    """Parse JSON of a file that anyone may have written.

    Args:
      source: the file, or file and line, named in errors.
      fix: the advice in errors.

    Raises:
      BadInput: not UTF-8, not JSON, nested too deep, or an integer of thousands of digits.
    """
    source = os.fspath(source)
    try:
        return json.loads(data if isinstance(data, str) else data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise BadInput(
            f"{source}: not UTF-8 text (byte {error.start}); save it as UTF-8", source=source
        ) from error
    except json.JSONDecodeError as error:
        raise BadInput(
            f"{source}: not valid JSON (line {error.lineno}: {error.msg}); {fix}", source=source
        ) from error
    except (RecursionError, ValueError) as error:
        is_deep = isinstance(error, RecursionError)
        reason = "nested too deep" if is_deep else str(error).partition(";")[0]
        raise BadInput(f"{source}: not usable JSON ({reason}); {fix}", source=source) from error


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write `value` as `encode_json` gives it; see `write_atomic` for errors."""
    write_atomic(path, encode_json(value))


def encode_json(value: Any) -> bytes:
    """`value` as indented JSON in UTF-8, without known secrets."""
    text = redact_known(json.dumps(value, indent=2, ensure_ascii=False)) + "\n"
    return text.encode("utf-8", "replace")  # a lone surrogate has no UTF-8 form and becomes "?"
