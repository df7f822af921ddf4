"""Hashes of files. They change with what is in a file, not with where it lies."""

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np

WHOLE_FILE_BYTES = 256 * 2**20  # files above this are hashed by sample
SAMPLES, SAMPLE_BYTES = 64, 2**20


def add_file(digest: Any, path: str | os.PathLike, whole: bool = False) -> None:
    """Feeds a file to a hash of hashlib. Unless `whole`, of a large file only 64 even blocks of a
    MiB, the first and
    the last too: training moves every weight, so that is enough to tell checkpoints apart."""
    size = os.stat(path).st_size
    with open(path, "rb") as file:
        if whole or size <= WHOLE_FILE_BYTES:
            while block := file.read(2**22):
                digest.update(block)
            return
        for offset in np.linspace(0, size - SAMPLE_BYTES, SAMPLES).astype(np.int64):
            file.seek(int(offset))
            digest.update(file.read(SAMPLE_BYTES))


def file_digest(path: str | os.PathLike) -> str:
    """Hash of everything in one file."""
    digest = hashlib.blake2b(digest_size=16)
    add_file(digest, path, whole=True)
    return digest.hexdigest()


def add_files(digest: Any, path: Path, kinds: tuple[str, ...]) -> None:
    """Feeds names, sizes and contents of a folder's own files of these suffixes, or one file, to a
    hash."""
    files = sorted(p for p in path.iterdir() if p.suffix in kinds) if path.is_dir() else [path]
    for file in files:
        digest.update(f"{file.name if path.is_dir() else ''} {file.stat().st_size}\n".encode())
        add_file(digest, file)
