"""Reading and writing folders of safetensors files in the Hugging Face layout, one file or sharded
with an index."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  (registers bfloat16 with numpy)
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from pav_jax.errors import BadInput
from pav_jax.storage.json_files import read_json, write_json

MAPPED = 2**28  # bytes
STEMS = ("model", "diffusion_pytorch_model")


class TensorFolder(Mapping):
    """A lazy {tensor name: array}: a tensor is read from its file when it is asked for.

    What is read of an open file stays in this process's memory, so files are closed after `MAPPED`
    bytes.
    """

    def __init__(self, files: dict[str, Path]):
        self._files = files  # tensor name -> file
        self._open: dict[Path, Any] = {}
        self._read = 0

    def __getitem__(self, name: str) -> np.ndarray:
        return self._counted(self._file(name).get_tensor(name))

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._file(name).get_slice(name).get_shape())

    def part(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
        """tensor[index]; nothing else of it is read."""
        return self._counted(self._file(name).get_slice(name)[index])

    def file(self, name: str) -> Path:
        """Where the tensor lies."""
        return self._files[name]

    def _file(self, name: str) -> Any:
        path = self._files[name]
        if path not in self._open:
            self._open[path] = _open(path)
        return self._open[path]

    def _counted(self, array: np.ndarray) -> np.ndarray:
        self._read += array.nbytes
        if self._read > MAPPED:
            self._open.clear()
            self._read = 0
        return array

    def __contains__(self, name: object) -> bool:  # a Mapping's own would read the tensor
        return name in self._files

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def _open(path: Path):
    try:
        return safe_open(path, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise BadInput(
            f"{path}: not a whole safetensors file ({error}); fetch or export it again"
        ) from error


def read_tensors(folder: str | Path, stems: tuple[str, ...] = STEMS) -> TensorFolder:
    """Opens `<stem>.safetensors`, or the shards that `<stem>.safetensors.index.json` names.

    Raises:
      BadInput: the folder, the file or one of the shards is missing or half-written.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BadInput(
            f"{folder}: no such folder; a checkpoint in the Hugging Face layout was expected here"
        )
    for stem in stems:
        index, single = folder / f"{stem}.safetensors.index.json", folder / f"{stem}.safetensors"
        if index.exists():
            files = {name: folder / shard for name, shard in read_json(index)["weight_map"].items()}
            if missing := sorted({str(f) for f in files.values() if not f.exists()}):
                raise BadInput(
                    f"{index}: shard {missing[0]} is missing; fetch the checkpoint again"
                )
            return TensorFolder(files)
        if single.exists():
            return TensorFolder(dict.fromkeys(_open(single).keys(), single))
    raise BadInput(f"{folder}: no {stems[0]}.safetensors here; is the checkpoint complete?")


def write_tensors(
    folder: str | Path,
    tensors: Mapping[str, np.ndarray],
    stem: str = "model",
    max_shard_size: str = "5GB",
) -> None:
    """Writes `tensors` as one file, or as shards of at most `max_shard_size` with an index. Each
    file appears whole."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    limit, shards, used = _bytes(max_shard_size), [{}], 0
    for name, array in tensors.items():
        if shards[-1] and used + array.nbytes > limit:
            shards.append({})
            used = 0
        shards[-1][name] = array
        used += array.nbytes
    if len(shards) == 1:
        _save(folder / f"{stem}.safetensors", shards[0])
        return
    weight_map = {}
    for i, shard in enumerate(shards, 1):
        file = f"{stem}-{i:05d}-of-{len(shards):05d}.safetensors"
        _save(folder / file, shard)
        weight_map |= dict.fromkeys(shard, file)
    total = sum(a.nbytes for a in tensors.values())
    write_json(
        folder / f"{stem}.safetensors.index.json",
        {"metadata": {"total_size": total}, "weight_map": weight_map},
    )


def _save(path: Path, tensors: dict[str, np.ndarray]) -> None:
    part = path.with_name(path.name + ".part")
    try:
        save_file(
            {k: np.asarray(v, order="C") for k, v in tensors.items()},
            part,
            metadata={"format": "pt"},
        )
        part.chmod(path.parent.stat().st_mode & 0o666)  # safetensors lets the owner alone read
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _bytes(size: str) -> int:
    match = re.fullmatch(r"(\d+)\s*([KMG]?B)", size.strip(), re.IGNORECASE)
    if not match:
        raise BadInput(f"max_shard_size={size!r}: write a number and KB, MB or GB, as in 5GB")
    return int(match[1]) * {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}[match[2].upper()]
