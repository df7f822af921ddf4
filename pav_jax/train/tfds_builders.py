"""TFDS builders for JSON Lines, prepared as ArrayRecord and read without TensorFlow."""

import contextlib
import hashlib
import io
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from pav_jax.errors import BadInput
from pav_jax.records import Preference, PromptPair
from pav_jax.storage.addresses import AnyPath, as_path
from pav_jax.storage.folders import made_folder, remove_folder
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

    Prepared examples that are incomplete or corrupt are made again, with a warning.

    Args:
      folder: where the prepared examples are stored.

    Raises:
      BadInput: the file is missing, invalid or empty.
    """
    num_records = len(read_jsonl(path, builder.RECORD))
    if not num_records:
        raise BadInput(
            f"{path}: contains no {builder.RECORD.__name__}; lower the thresholds, constraints and"
            " margin of `select` and `prefer`, or give more prompts, and run the previous stage"
            " again",
            source=path,
        )
    tfds.disable_progress_bar()
    data_dir = as_path(folder) / data_digest(path)
    try:
        try:
            return _prepare(builder, path, data_dir, num_records)
        except (OSError, BadInput):
            raise
        except Exception as error:  # TFDS and ArrayRecord raise many types for incomplete files
            reason = (str(error) or type(error).__name__).splitlines()[0]
        warnings.warn(
            f"{data_dir}: incomplete or corrupt examples ({reason:.200}); they are made again from"
            f" {path}",
            stacklevel=2,
        )
        remove_folder(data_dir)  # only what was made from `path`
        return _prepare(builder, path, data_dir, num_records)
    except OSError as error:
        raise BadInput(
            f"{folder}: the examples of {path} could not be prepared ({error.strerror or error});"
            " free disk space or change the permissions and run the same command again",
            source=folder,
        ) from error


def _prepare(builder: type[_JsonLines], path: str | os.PathLike, data_dir: Any, count: int) -> Any:
    """Prepare the examples unless `data_dir` has them, and read all `count` of them."""

    def open_in(local_dir: Path) -> _JsonLines:
        return builder(source=path, data_dir=local_dir, file_format="array_record")

    def prepare(local_dir: Path) -> None:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints about downloads
            open_in(local_dir).download_and_prepare()  # returns at once if it was prepared before

    prepared = open_in(made_folder(data_dir, prepare))
    # the stubs of TFDS do not show the parameters of this decorated method
    source: Any = prepared.as_data_source(split="train")  # pyright: ignore[reportCallIssue]
    lines = [int(source[i]["line"]) for i in range(len(source))]
    if lines != list(range(1, count + 1)):
        raise ValueError(f"{len(lines)} of {count} examples")
    return source
