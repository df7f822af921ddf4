"""JSON files: read with one-line errors, written atomically."""

import json
import os
from typing import Any

from pav_jax.errors import BadInput
from pav_jax.redaction import redact_known
from pav_jax.storage.addresses import as_path
from pav_jax.storage.files import write_atomic


def read_json(path: str | os.PathLike) -> dict[str, Any]:
    """Read a JSON file, local or in an object store.

    Raises:
      BadInput: the file is missing or is not valid JSON.
    """
    path = as_path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(
            f"{path}: no such file; check that the folder is complete", source=path
        ) from None
    except json.JSONDecodeError as error:
        raise BadInput(
            f"{path}: not valid JSON (line {error.lineno}: {error.msg}); download or write it"
            " again",
            source=path,
        ) from error


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write `value` as indented UTF-8 JSON without known secrets; see `write_atomic` for errors."""
    text = redact_known(json.dumps(value, indent=2, ensure_ascii=False)) + "\n"
    # a lone surrogate has no UTF-8 form and becomes "?"
    write_atomic(path, text.encode("utf-8", "replace"))
