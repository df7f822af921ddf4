"""Folders of safetensors in the Hugging Face layout: one file, or shards with an index."""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import ml_dtypes  # noqa: F401  (registers bfloat16 with numpy)
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from pav_jax.errors import BadInput
from pav_jax.storage.files import atomic_file
from pav_jax.storage.folders import local_copy
from pav_jax.storage.json_files import read_json, write_json
from pav_jax.typed_fields import read_fields

MAX_MAPPED_BYTES = 2**28
STEMS = ("model", "diffusion_pytorch_model")
UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class ShardIndex:
    """The fields of a `*.index.json` that are read."""

    weight_map: dict[str, str]


class TensorFolder(Mapping[str, np.ndarray]):
    """A lazy {tensor name: array}; a tensor is read from its file on access.

    Pages of an open file stay in this process's memory, so files are closed after
    `MAX_MAPPED_BYTES`.
    """

    def __init__(self, files: Mapping[str, Path], stored: Mapping[str, str] | None = None):
        """Args:
        files: tensor name -> file.
        stored: tensor name -> its name in the file, where that is another one.
        """
        self._files = files
        self._stored = stored or {}
        self._open: dict[Path, Any] = {}
        self._read_bytes = 0

    def with_prefixes(self, prefixes: Mapping[str, str]) -> "TensorFolder":
        """The same tensors, with other beginnings of their names.

        Args:
          prefixes: beginning of a name in the files -> what it becomes.
        """
        names = {}
        for name in self._files:
            old = next((prefix for prefix in prefixes if name.startswith(prefix)), None)
            names[name if old is None else prefixes[old] + name.removeprefix(old)] = name
        files = {name: self._files[stored] for name, stored in names.items()}
        return TensorFolder(files, {a: b for a, b in names.items() if a != b})

    def __getitem__(self, name: str) -> np.ndarray:
        handle = self._handle(name)
        stored = self._stored.get(name, name)
        return self._count(self._read(name, lambda: handle.get_tensor(stored)))

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading it."""
        handle = self._handle(name)
        stored = self._stored.get(name, name)
        return tuple(self._read(name, lambda: handle.get_slice(stored).get_shape()))

    def part(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
        """`tensor[index]`; the rest of the tensor is not read."""
        handle = self._handle(name)
        stored = self._stored.get(name, name)
        return self._count(self._read(name, lambda: handle.get_slice(stored)[index]))

    def _read(self, name: str, read: Callable[[], T]) -> T:
        """The result of `read`, with errors that name the file and the tensor.

        safetensors raises SafetensorError for a tensor that the file does not have, and others for
        a dtype that numpy does not have.
        """
        try:
            return read()
        except (SafetensorError, OSError, TypeError, ValueError, AttributeError, KeyError) as error:
            file = self._files[name]
            reason = " ".join(str(error).split())
            raise BadInput(
                f"{file}: tensor {name!r} cannot be read ({reason}); download or export the"
                " checkpoint again",
                source=file,
                field=name,
            ) from error

    def file(self, name: str) -> Path:
        """The file of a tensor."""
        return self._files[name]

    def _handle(self, name: str) -> Any:
        path = self._files[name]
        if path not in self._open:
            self._open[path] = _open(path)
        return self._open[path]

    def _count(self, array: np.ndarray) -> np.ndarray:
        self._read_bytes += array.nbytes
        if self._read_bytes > MAX_MAPPED_BYTES:
            self._open.clear()
            self._read_bytes = 0
        return array

    def __contains__(self, name: object) -> bool:  # Mapping's own would read the tensor
        return name in self._files

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def read_tensors(folder: str | Path, stems: tuple[str, ...] = STEMS) -> TensorFolder:
    """Open `<stem>.safetensors`, or the shards that `<stem>.safetensors.index.json` names.

    Raises:
      BadInput: the folder, the file or a shard is missing or incomplete.
    """
    folder = local_copy(folder)
    if not folder.is_dir():
        raise BadInput(
            f"{folder}: no such folder; give a checkpoint in the Hugging Face layout", source=folder
        )
    for stem in stems:
        index = folder / f"{stem}.safetensors.index.json"
        single = folder / f"{stem}.safetensors"
        if index.exists():
            return TensorFolder(_sharded_files(index))
        if single.exists():
            return TensorFolder(dict.fromkeys(_open(single).keys(), single))
    raise BadInput(
        f"{folder}: no {stems[0]}.safetensors; is the checkpoint complete?", source=folder
    )


def _sharded_files(index: Path) -> dict[str, Path]:
    """Tensor name -> shard."""
    weight_map = read_weight_map(index)
    files = {name: index.parent / shard for name, shard in weight_map.items()}
    if missing := sorted({str(file) for file in files.values() if not file.exists()}):
        raise BadInput(
            f"{index}: shard {missing[0]} is missing; download the checkpoint again", source=index
        )
    return files


def read_weight_map(index: Path) -> dict[str, str]:
    """Tensor name -> file name beside `index`, from a `*.index.json`.

    Raises:
      BadInput: it has no such map, or a file is not in the folder of the index.
    """
    content = read_fields(ShardIndex, read_json(index), str(index))
    for name, file in content.weight_map.items():
        if Path(file).name != file:
            raise BadInput(
                f"{index}: weight_map.{name} is {file!r}; it must name a file in the same folder",
                source=index,
                field=f"weight_map.{name}",
            )
    return content.weight_map


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise BadInput(
            f"{path}: incomplete or corrupt safetensors file ({error}); download or export it"
            " again",
            source=path,
        ) from error


def write_tensors(
    folder: str | Path,
    tensors: Mapping[str, np.ndarray],
    stem: str = "model",
    max_shard_size: str = "5GB",
) -> None:
    """Write `tensors` as one file, or as shards with an index; each file is written atomically.

    Args:
      stem: of the file names.
      max_shard_size: the largest file, as in "5GB"; a single larger tensor gets its own file.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    shards = _split(tensors, _parse_size(max_shard_size))
    if len(shards) == 1:
        _save(folder / f"{stem}.safetensors", shards[0])
        return
    weight_map = {}
    for i, shard in enumerate(shards, 1):
        file = f"{stem}-{i:05d}-of-{len(shards):05d}.safetensors"
        _save(folder / file, shard)
        weight_map |= dict.fromkeys(shard, file)
    total = sum(array.nbytes for array in tensors.values())
    write_json(
        folder / f"{stem}.safetensors.index.json",
        {"metadata": {"total_size": total}, "weight_map": weight_map},
    )


def _split(tensors: Mapping[str, np.ndarray], limit: int) -> list[dict[str, np.ndarray]]:
    """Consecutive tensors in shards of at most `limit` bytes."""
    shards: list[dict[str, np.ndarray]] = [{}]
    used = 0
    for name, array in tensors.items():
        if shards[-1] and used + array.nbytes > limit:
            shards.append({})
            used = 0
        shards[-1][name] = array
        used += array.nbytes
    return shards


def _save(path: Path, tensors: dict[str, np.ndarray]) -> None:
    contiguous = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    with atomic_file(path) as part:
        save_file(contiguous, part, metadata={"format": "pt"})
        part.chmod(path.parent.stat().st_mode & 0o666)  # safetensors makes it private to the owner


def _parse_size(size: str) -> int:
    match = re.fullmatch(r"(\d+)\s*([KMG]?B)", size.strip(), re.IGNORECASE)
    if not match:
        raise BadInput(
            f"max_shard_size={size!r}: write a number and KB, MB or GB, as in 5GB",
            field="max_shard_size",
        )
    return int(match[1]) * UNITS[match[2].upper()]
