"""Reads tensors from a file that torch.save wrote, or from a safetensors file, without running any
code in it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from pav_jax.checkpoints.safetensors import read_tensors
from pav_jax.errors import BadInput
from pav_jax.storage.folders import local_copy

WEIGHT_KEYS = ("state_dict", "model_state_dict", "model", "module")  # where trainers put weights
DDP_PREFIX = "module."  # of DistributedDataParallel


class OpaqueObject:
    """Replace each class and function that a pickle names.

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
    tensors = _state_dict(_load(path))
    if not tensors:
        raise BadInput(
            f"{path}: no named tensors in it; give a state dict or a whole model", source=path
        )
    if all(name.startswith(DDP_PREFIX) for name in tensors):
        tensors = {name.removeprefix(DDP_PREFIX): tensor for name, tensor in tensors.items()}
    return {name: _to_numpy(tensor) for name, tensor in tensors.items()}


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


def _state_dict(content: Any) -> dict[str, Any]:
    """The named tensors in the content of a file; empty if there are none."""
    import torch

    if isinstance(content, OpaqueObject):
        return dict(_module_tensors(content))
    if not isinstance(content, Mapping):
        return {}
    tensors = {name: value for name, value in content.items() if isinstance(value, torch.Tensor)}
    if tensors:
        return tensors
    for key in WEIGHT_KEYS:
        if tensors := _state_dict(content.get(key)):
            return tensors
    return {}


def _module_tensors(module: OpaqueObject, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield parameters and buffers as torch's Module.state_dict does, then those of submodules."""
    for kind in ("_parameters", "_buffers"):
        for name, tensor in (module.state.get(kind) or {}).items():
            if tensor is not None:
                yield prefix + name, tensor
    for name, submodule in (module.state.get("_modules") or {}).items():
        if isinstance(submodule, OpaqueObject):
            yield from _module_tensors(submodule, f"{prefix}{name}.")


def _to_numpy(tensor: Any) -> np.ndarray:
    import torch

    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:  # numpy itself has no bfloat16
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()
