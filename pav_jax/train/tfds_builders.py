"""TFDS builders for JSON Lines, prepared as ArrayRecord and read without TensorFlow."""

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
from pav_jax.storage.addresses import AnyPath, as_path
from pav_jax.storage.folders import made_folder
from pav_jax.storage.records import read_jsonl


class _JsonLines(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """One example per line, in the order of the file.

    Attributes:
      RECORD: the dataclass of a line.
      FEATURES: its fields and their TFDS features.
    """

    VERSION = tfds.core.Version("1.0.0")
    code_path = None  # TFDS would look there for checksums of downloads
    RECORD: type
    FEATURES: dict[str, Any]

    def __init__(self, *, source: str | os.PathLike, **kwargs):
        self._source = os.fspath(source)
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        # lines are counted from 1, for error messages
        features = tfds.features.FeaturesDict(self.FEATURES | {"line": np.int64})
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager):
        del dl_manager  # nothing is downloaded
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for line, record in enumerate(read_jsonl(self._source, self.RECORD), 1):
            yield line, {name: getattr(record, name) for name in self.FEATURES} | {"line": line}


class SftPairs(_JsonLines):
    """`sft_pairs.jsonl`: prompts and the rewrites to learn."""

    RECORD = PromptPair
    FEATURES = {"prompt": tfds.features.Text(), "refined": tfds.features.Text()}


class Preferences(_JsonLines):
    """`preferences.jsonl`: prompts, the preferred and the rejected rewrite, and the margin."""

    RECORD = Preference
    FEATURES = {
        "prompt": tfds.features.Text(),
        "chosen": tfds.features.Text(),
        "rejected": tfds.features.Text(),
        "margin": np.float32,
    }


def data_digest(path: str | os.PathLike) -> str:
    """A digest of the contents of a file, 16 hexadecimal digits."""
    file = as_path(path)
    if not file.is_file():
        raise BadInput(f"{path}: no such file; run the stage that writes it first", source=path)
    return hashlib.blake2b(file.read_bytes(), digest_size=8).hexdigest()


def data_source(builder: type[_JsonLines], path: str | os.PathLike, folder: AnyPath):
    """Random access to the examples in a file, prepared once for each content of it.

    Args:
      folder: where the prepared examples are stored.

    Raises:
      BadInput: the file is missing, invalid or empty.
    """
    if not read_jsonl(path, builder.RECORD):
        raise BadInput(
            f"{path}: contains no {builder.RECORD.__name__}; lower the thresholds, constraints and"
            " margin of `select` and `prefer`, or give more prompts, and run the previous stage"
            " again",
            source=path,
        )
    tfds.disable_progress_bar()

    def open_in(data_dir: Path) -> _JsonLines:
        return builder(source=path, data_dir=data_dir, file_format="array_record")

    def prepare(data_dir: Path) -> None:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints about downloads
            open_in(data_dir).download_and_prepare()  # returns at once if it was prepared before

    try:
        prepared = open_in(made_folder(folder / data_digest(path), prepare))
    except OSError as error:
        raise BadInput(
            f"{folder}: the examples of {path} could not be written ({error.strerror or error});"
            " free disk space and run the same command again",
            source=folder,
        ) from error
    # the stubs of TFDS do not show the parameters of this decorated method
    return prepared.as_data_source(split="train")  # pyright: ignore[reportCallIssue]
