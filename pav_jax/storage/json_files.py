"""JSON files, read with one-line errors and written atomically."""

import json
import os
from pathlib import Path
from typing import Any

from pav_jax.errors import BadInput


def read_json(path: str | Path) -> dict:
    path = Path(path)
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file; is the checkpoint complete?") from None
    except json.JSONDecodeError as error:
        raise BadInput(
            f"{path}: not valid JSON (line {error.lineno}: {error.msg}); fetch or write it again"
        ) from error


def write_json(path: str | Path, obj: Any) -> None:
    """Writes JSON under a temporary name, then renames: readers see the old file or the new, never
    a half."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(json.dumps(obj, indent=2, ensure_ascii=False) + "\n")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
