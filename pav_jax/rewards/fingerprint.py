"""Names what a reward's scores depend on besides the video and its prompt, so that scores can be
kept."""

import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pav_jax.checkpoints.digest import add_files

FILES = (
    ".json",
    ".safetensors",
    ".txt",
    ".model",
)  # of a checkpoint's folder: weights, settings, tokenizer
PACKAGE = Path(__file__).parents[1]
CODE = ("rewards", "models", "video/files.py")  # of this package: what decides about a score


def fingerprint(kind: str, **made_from: Any) -> str:
    """32 hexadecimal digits that change with the kind, the options, the weights, and the code that
    scores.

    Args:
      made_from: options by name. A Path stands for what is in the file, or in the folder's files;
        arrays, also nested in mappings, for their numbers; anything else for its JSON.
    """
    digest = hashlib.blake2b(digest_size=16)
    _add(digest, [_code(), kind])
    _add(digest, made_from)
    return digest.hexdigest()


def _add(digest: Any, value: Any) -> None:
    if isinstance(value, Mapping):
        for name in sorted(value):
            digest.update(f"{name}\n".encode())
            _add(digest, value[name])
    elif isinstance(value, Path):
        add_files(digest, value, FILES)
    elif isinstance(value, np.ndarray | jax.Array):
        array = np.asarray(value)
        digest.update(f"{array.dtype} {array.shape}\n".encode() + array.tobytes())
    else:
        digest.update(json.dumps(value, sort_keys=True).encode() + b"\n")


@functools.cache
def _code() -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in CODE:
        path = PACKAGE / part
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(file.read_bytes())
    return digest.hexdigest()
