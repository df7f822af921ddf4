"""Hashes of files: they depend on the contents, not on the location."""

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from pav_jax.storage.folders import local_copy

WHOLE_FILE_BYTES = 256 * 2**20  # larger files are hashed by sample
SAMPLES = 64
SAMPLE_BYTES = 2**20
BLOCK_BYTES = 2**22


def add_file(digest: Any, path: str | os.PathLike, whole: bool = False) -> None:
    """Feed a file to a hash of hashlib.

    Of a large file only 64 evenly spaced blocks of 1 MiB are read, including the first and the
    last: training changes every weight, so that is enough to tell checkpoints apart.

    Args:
      whole: read all of a large file too.
    """
    path = local_copy(path)
    size = os.stat(path).st_size
    with open(path, "rb") as file:
        if whole or size <= WHOLE_FILE_BYTES:
            while block := file.read(BLOCK_BYTES):
                digest.update(block)
            return
        for offset in np.linspace(0, size - SAMPLE_BYTES, SAMPLES).astype(np.int64):
            file.seek(int(offset))
            digest.update(file.read(SAMPLE_BYTES))


def file_digest(path: str | os.PathLike) -> str:
    """Hash the whole content of a file."""
    digest = hashlib.blake2b(digest_size=16)
    add_file(digest, path, whole=True)
    return digest.hexdigest()


def add_files(digest: Any, path: Path, suffixes: tuple[str, ...]) -> None:
    """Feed names, sizes and contents of files to a hash of hashlib.

    Args:
      path: a folder, of which the files with one of `suffixes` are read, or a single file.
    """
    path = local_copy(path)
    is_folder = path.is_dir()
    files = sorted(p for p in path.iterdir() if p.suffix in suffixes) if is_folder else [path]
    for file in files:
        name = file.name if is_folder else ""
        digest.update(f"{name} {file.stat().st_size}\n".encode())
        add_file(digest, file)
