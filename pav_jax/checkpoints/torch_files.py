"""Reads tensors from a file that torch.save wrote, or from a safetensors file, without running any
code in it."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from pav_jax.checkpoints.safetensors import read_tensors
from pav_jax.errors import BadInput
from pav_jax.storage.folders import local_copy

WEIGHT_KEYS = ("state_dict", "model_state_dict", "model", "module")  # where trainers put weights
MAX_NESTING = 64  # levels of dictionaries or modules
MAX_EXPANSION = 64  # bytes of a tensor for each byte of the file: a broadcast bias, tied weights
DDP_PREFIX = "module."  # of DistributedDataParallel


class OpaqueObject:
    """Takes the place of each class and function that a pickle names.

    It takes any arguments, does nothing and keeps its state, so that the tensors of a pickled
    module can be read without its code.
    """

    def __new__(cls, *args: Any, **options: Any) -> "OpaqueObject":
        return object.__new__(cls)

    def __init__(self, *args: Any, **options: Any):
        self.state = {}

    def __setstate__(self, state: Any) -> None:
        self.state = state if isinstance(state, dict) else {}


def read_file(path: str | Path) -> dict[str, np.ndarray]:
    """Read {name: array} from a state dict, a trainer's checkpoint or a pickled torch module.

    Raises:
      BadInput: the file is missing, broken or of another format, or holds no tensors.
    """
    path = local_copy(path)
    if not path.is_file():
        raise BadInput(f"{path}: no such file", source=path)
    if path.suffix == ".safetensors":
        return dict(read_tensors(path.parent, (path.stem,)))
    tensors = _state_dict(_load(path), MAX_NESTING)
    if not tensors:
        raise BadInput(
            f"{path}: no named tensors in it; give a state dict or a whole model", source=path
        )
    if unnamed := [name for name in tensors if not isinstance(name, str)]:
        raise BadInput(
            f"{path}: a tensor has the name {unnamed[0]!r}, which is not text; give a state dict",
            source=path,
        )
    if all(name.startswith(DDP_PREFIX) for name in tensors):
        tensors = {name.removeprefix(DDP_PREFIX): tensor for name, tensor in tensors.items()}
    limit = MAX_EXPANSION * path.stat().st_size
    return {name: _to_numpy(tensor, name, path, limit) for name, tensor in tensors.items()}


def _load(path: Path) -> Any:
    try:
        import torch
    except ImportError:
        raise BadInput(
            f"{path}: reading this file needs torch; pip install torch", source=path
        ) from None
    serialization = torch.serialization
    try:
        try:
            names = serialization.get_unsafe_globals_in_checkpoint(path)
        except ValueError as error:
            if "torchscript" in str(error):
                raise
            names = []  # not a zip archive: the format before 2020, only used for plain tensors
        with serialization.safe_globals([(OpaqueObject, name) for name in names]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever torch raises for a broken file or another format
        if "torchscript" in str(error):
            raise BadInput(
                f"{path}: this is a TorchScript archive, which contains a program; save its"
                " state_dict() with torch and convert that",
                source=path,
            ) from error
        raise BadInput(
            f"{path}: torch cannot read weights from it ({_reason(error)})", source=path
        ) from error


def _reason(error: Exception) -> str:
    """The first line of torch's message that is not advice to load the file unsafely."""
    lines = [line.strip() for line in str(error).splitlines()]
    lines = [line for line in lines if line and "weights_only" not in line]
    return lines[0].rstrip(".") if lines else type(error).__name__


def _state_dict(content: Any, levels: int) -> dict[Any, Any]:
    """The named tensors at most `levels` levels deep in a file; empty if there are none."""
    import torch

    if isinstance(content, OpaqueObject):
        return dict(_module_tensors(content, levels))
    if not isinstance(content, Mapping) or not levels:
        return {}
    tensors = {name: value for name, value in content.items() if isinstance(value, torch.Tensor)}
    if tensors:
        return tensors
    for key in WEIGHT_KEYS:
        if tensors := _state_dict(content.get(key), levels - 1):
            return tensors
    return {}


def _module_tensors(
    module: OpaqueObject, levels: int, prefix: str = "", parents: frozenset[int] = frozenset()
) -> Iterator[tuple[str, Any]]:
    """Yield parameters and buffers as torch's Module.state_dict does, then those of submodules.

    A module that contains itself, which no training code makes, is not entered again.
    """
    import torch

    if not levels or id(module) in parents:
        return
    for kind in ("_parameters", "_buffers"):
        for name, tensor in _entries(module, kind):
            if isinstance(tensor, torch.Tensor):
                yield f"{prefix}{name}", tensor
    for name, submodule in _entries(module, "_modules"):
        if isinstance(submodule, OpaqueObject):
            ancestors = parents | {id(module)}
            yield from _module_tensors(submodule, levels - 1, f"{prefix}{name}.", ancestors)


def _entries(module: OpaqueObject, kind: str) -> Iterable[tuple[Any, Any]]:
    entries = module.state.get(kind)
    return entries.items() if isinstance(entries, Mapping) else ()


def _to_numpy(tensor: Any, name: str, path: Path, limit: int) -> np.ndarray:
    """The values of a tensor.

    Args:
      limit: in bytes; a view can claim any size, whatever is stored.

    Raises:
      BadInput: the tensor has no plain values, or more than `limit` bytes of them.
    """
    import torch

    problem = None
    if tensor.layout != torch.strided:
        problem = "is sparse; save tensor.to_dense()"
    elif tensor.is_quantized:
        problem = "is quantized; save tensor.dequantize()"
    elif tensor.is_meta:
        problem = "has no values (device meta); save the model with its weights loaded"
    elif tensor.is_complex():
        problem = "is complex; weights are real numbers"
    elif tensor.numel() * tensor.element_size() > limit:
        problem = f"claims {tensor.numel() * tensor.element_size()} bytes, more than the file has"
    if problem is not None:
        raise BadInput(f"{path}: tensor {name!r} {problem}", source=path, field=name)
    try:
        tensor = tensor.detach().resolve_neg().contiguous()
        kind = str(tensor.dtype).removeprefix("torch.")
        if kind == "bfloat16" or kind.startswith("float8"):  # which numpy itself does not have
            bits = torch.int16 if kind == "bfloat16" else torch.uint8
            return tensor.view(bits).numpy().view(getattr(ml_dtypes, kind))
        return tensor.numpy()
    except (TypeError, RuntimeError, AttributeError, NotImplementedError) as error:
        raise BadInput(
            f"{path}: tensor {name!r} of type {tensor.dtype} cannot be read"
            f" ({_reason(error)}); save it as float32",
            source=path,
            field=name,
        ) from error
