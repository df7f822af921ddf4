"""TFDS builders over the JSON Lines that training reads, prepared as ArrayRecord and read without
TensorFlow."""

import contextlib
import hashlib
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from pav_jax.errors import BadInput
from pav_jax.records import Preference, PromptPair
from pav_jax.storage.records import read_jsonl


class _JsonLines(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """One example per line, in the file's order. `source` is the file; `RECORD` the dataclass of a
    line."""

    VERSION = tfds.core.Version("1.0.0")
    code_path = None  # where TFDS would look for checksums of downloads; there are none
    RECORD: type
    FEATURES: dict[str, Any]

    def __init__(self, *, source: str | os.PathLike, **kwargs):
        self._source = os.fspath(source)
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(
            self.FEATURES | {"line": np.int64}
        )  # counted from 1, for messages
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager):
        del dl_manager  # nothing is downloaded
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for line, record in enumerate(read_jsonl(self._source, self.RECORD), 1):
            yield line, {name: getattr(record, name) for name in self.FEATURES} | {"line": line}


class SftPairs(_JsonLines):
    """`sft_pairs.jsonl`: what a user typed and the rewrite to learn."""

    RECORD = PromptPair
    FEATURES = {"prompt": tfds.features.Text(), "refined": tfds.features.Text()}


class Preferences(_JsonLines):
    """`preferences.jsonl`: what a user typed, the better rewrite, the worse one, and by how
    much."""

    RECORD = Preference
    FEATURES = {
        "prompt": tfds.features.Text(),
        "chosen": tfds.features.Text(),
        "rejected": tfds.features.Text(),
        "margin": np.float32,
    }


def data_digest(path: str | os.PathLike) -> str:
    """Names the contents of a file: 16 hexadecimal digits."""
    if not Path(path).is_file():
        raise BadInput(f"{path}: no such file; run the stage that writes it first")
    return hashlib.blake2b(Path(path).read_bytes(), digest_size=8).hexdigest()


def data_source(builder: type[_JsonLines], path: str | os.PathLike, folder: Path):
    """Random access to the examples of the file `path`, prepared once under `folder` and named by
    its contents.

    Raises:
      BadInput: the file is missing, broken or has no line.
    """
    if not read_jsonl(path, builder.RECORD):
        raise BadInput(
            f"{path}: holds no {builder.RECORD.__name__}; lower select's and prefer's thresholds,"
            " floors and margin, or give more prompts, and run the stage before again"
        )
    tfds.disable_progress_bar()
    made = builder(source=path, data_dir=folder / data_digest(path), file_format="array_record")
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it tells of downloads; there are none
            made.download_and_prepare()  # returns at once where it was prepared; renames when done
    except OSError as error:
        raise BadInput(
            f"{folder}: the examples of {path} could not be written ({error.strerror or error});"
            " make room and run the same command again"
        ) from error
    return made.as_data_source(split="train")
