"""Fingerprints of rewards: what their scores depend on besides the video and its prompt."""

import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pav_jax.checkpoints.digest import add_files

# weights, configuration and tokenizer in the folder of a checkpoint
SUFFIXES = (".json", ".safetensors", ".txt", ".model")
PACKAGE = Path(__file__).parents[1]
CODE = ("rewards", "models", "video/reading.py")  # parts of the package that scores depend on


def fingerprint(kind: str, **dependencies: Any) -> str:
    """32 hexadecimal digits that change with the kind, the dependencies, and the scoring code.

    Args:
      kind: of reward.
      dependencies: options and weights by name. A Path stands for the content of the file, or of
        the folder's files with one of SUFFIXES; arrays, also in nested mappings, for their values;
        anything else for its JSON.
    """
    digest = hashlib.blake2b(digest_size=16)
    _add(digest, [_code_digest(), kind])
    _add(digest, dependencies)
    return digest.hexdigest()


def _add(digest: Any, value: Any) -> None:
    if isinstance(value, Mapping):
        for name in sorted(value):
            digest.update(f"{name}\n".encode())
            _add(digest, value[name])
    elif isinstance(value, Path):
        add_files(digest, value, SUFFIXES)
    elif isinstance(value, np.ndarray | jax.Array):
        array = np.asarray(value)
        digest.update(f"{array.dtype} {array.shape}\n".encode() + array.tobytes())
    else:
        digest.update(json.dumps(value, sort_keys=True).encode() + b"\n")


@functools.cache
def _code_digest() -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in CODE:
        path = PACKAGE / part
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(file.read_bytes())
    return digest.hexdigest()
