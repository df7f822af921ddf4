"""Tensors in a file that torch.save wrote, or in a safetensors file. Nothing that a file holds is
ever run."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from pav_jax.checkpoints.safetensors import read_tensors
from pav_jax.errors import BadInput

HOLDERS = (
    "state_dict",
    "model_state_dict",
    "model",
    "module",
)  # keys under which trainers keep the weights
WRAPPER = "module."  # DistributedDataParallel's prefix


class StandIn:
    """Stands where a pickle names a class or a function: it takes any argument, does nothing and
    keeps its state, so a whole pickled module can be read for its tensors without its code."""

    def __new__(cls, *args: Any, **options: Any) -> "StandIn":
        return object.__new__(cls)

    def __init__(self, *args: Any, **options: Any):
        self.state = {}

    def __setstate__(self, state: Any) -> None:
        self.state = state if isinstance(state, dict) else {}


def read_file(path: str | Path) -> dict[str, np.ndarray]:
    """{name: array} of a state dict, of one under a trainer's key, or of a pickled torch module.

    Raises:
      BadInput: the file is missing, broken, of another kind, or holds no tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise BadInput(f"{path}: no such file")
    if path.suffix == ".safetensors":
        return dict(read_tensors(path.parent, (path.stem,)))
    tensors = _named(_load(path))
    if not tensors:
        raise BadInput(
            f"{path}: there is no table of named tensors in it; a state dict or a whole model is"
            " needed"
        )
    if all(name.startswith(WRAPPER) for name in tensors):
        tensors = {name.removeprefix(WRAPPER): tensor for name, tensor in tensors.items()}
    return {name: _numpy(tensor) for name, tensor in tensors.items()}


def _load(path: Path) -> Any:
    try:
        import torch
    except ImportError:
        raise BadInput(
            f"{path}: torch reads this file; install it for the conversion (pip install torch)"
        ) from None
    unpickling = torch.serialization
    try:
        try:
            named = unpickling.get_unsafe_globals_in_checkpoint(path)
        except ValueError as error:
            if "torchscript" in str(error):
                raise
            named = []  # not a zip archive: the form of before 2020, only ever met as plain tensors
        with unpickling.safe_globals([(StandIn, name) for name in named]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a broken or foreign file makes torch raise
        if "torchscript" in str(error):
            raise BadInput(
                f"{path}: a TorchScript archive, which holds a program; save its state_dict() with"
                " torch and convert that"
            ) from error
        # torch surrounds its reason with advice to load the file unsafely
        told = [
            line.strip()
            for line in str(error).splitlines()
            if line.strip() and "weights_only" not in line
        ]
        reason = told[0].rstrip(".") if told else type(error).__name__
        raise BadInput(f"{path}: torch finds no weights in it ({reason})") from error


def _named(found: Any) -> dict[str, Any]:
    """The tensors of what a file holds; empty where there are none."""
    import torch

    if isinstance(found, StandIn):
        return dict(_of_module(found))
    if not isinstance(found, Mapping):
        return {}
    if tensors := {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}:
        return tensors
    return next((inner for key in HOLDERS if (inner := _named(found.get(key)))), {})


def _of_module(module: StandIn, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """As torch's Module.state_dict: parameters and buffers, then those of the parts under their
    names."""
    for kind in ("_parameters", "_buffers"):
        for name, tensor in (module.state.get(kind) or {}).items():
            if tensor is not None:
                yield prefix + name, tensor
    for name, part in (module.state.get("_modules") or {}).items():
        if isinstance(part, StandIn):
            yield from _of_module(part, f"{prefix}{name}.")


def _numpy(tensor: Any) -> np.ndarray:
    import torch

    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:  # numpy has no name for it
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()
