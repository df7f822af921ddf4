"""Digests of weights, which fingerprints of generators are made of."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from pav_jax.checkpoints.digest import add_file

HASHED_SUFFIXES = (".json", ".safetensors", ".model")
HASHED_FOLDERS = ("tokenizer", "text_encoder", "transformer", "transformer_2", "vae")


def digest_folder(folder: Path) -> str:
    """Hash of a pipeline's weights, configurations and tokenizer; other files don't count."""
    digest = hashlib.sha256()
    folders = [folder / name for name in HASHED_FOLDERS if (folder / name).is_dir()]
    files = (file for path in folders for file in path.iterdir())
    for file in sorted(file for file in files if file.suffix in HASHED_SUFFIXES):
        digest.update(f"{file.parent.name}/{file.name} {file.stat().st_size}".encode())
        add_file(digest, file)
    return digest.hexdigest()


def digest_params(params: Mapping) -> str:
    """Hash of a tree of arrays and its names."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()
