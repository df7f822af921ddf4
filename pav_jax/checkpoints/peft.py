"""Adapters in PEFT's LoRA layout: adapter_config.json and adapter_model.safetensors.

PEFT has `lora_A` as [R, in] and `lora_B` as [out, R] for each layer; ours are stacked over layers,
[L, in, R] and [L, R, out].
"""

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from flax import traverse_util

from pav_jax.checkpoints.folder import check_finite
from pav_jax.checkpoints.safetensors import TensorFolder, read_tensors, write_tensors
from pav_jax.errors import BadInput
from pav_jax.models.weights import Weight
from pav_jax.storage.addresses import as_path
from pav_jax.storage.folders import local_copy
from pav_jax.storage.json_files import read_json, write_json
from pav_jax.typed_fields import Range, read_fields

STEM = "adapter_model"
PREFIX = "base_model.model."


@dataclasses.dataclass(frozen=True)
class AdapterFile:
    """The fields of adapter_config.json that plain LoRA has, with PEFT's defaults."""

    peft_type: str
    r: int = 8
    lora_alpha: float = 8
    lora_dropout: Annotated[float, Range(0, 0.999)] | None = 0.0
    base_model_name_or_path: str | None = None


# adapter_config.json's fields that change the mathematics, with the values that plain LoRA has
PLAIN_LORA = {
    "use_dora": (False, None),
    "use_rslora": (False, None),
    "bias": ("none", None),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "modules_to_save": (None, []),
}


def write_adapter(
    folder: str | Path,
    table: Sequence[Weight],
    lora: Mapping,
    r: int,
    lora_alpha: float,
    lora_dropout: float,
    base: str = "",
) -> None:
    """Write an adapter that `peft.PeftModel.from_pretrained` loads on the same base model.

    Args:
      table: the base model's weights; it names the tensors.
      lora: the adapter, see language/lora.py.
      r, lora_alpha, lora_dropout: as PEFT's LoraConfig.
      base: the base model's name or path, `base_model_name_or_path` in the file.
    """
    kernels = _kernels(table)
    flat: dict[str, Any] = traverse_util.flatten_dict(lora, sep="/")
    modules = sorted({path.rsplit("/", 1)[0] for path in flat})
    tensors = {}
    for module in modules:
        for letter in "AB":
            array = np.asarray(flat[f"{module}/{letter.lower()}"], np.float32)
            names = _tensor_names(kernels[module], letter)
            for name, layer in zip(names, array, strict=True):
                tensors[name] = np.ascontiguousarray(layer.T)
    write_tensors(folder, tensors, STEM)
    write_json(
        Path(folder) / "adapter_config.json",
        {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base,
            "r": r,
            "lora_alpha": lora_alpha,
            "lora_dropout": lora_dropout,
            "target_modules": sorted({module.rsplit("/", 1)[1] for module in modules}),
            "bias": "none",
            "inference_mode": True,
            "fan_in_fan_out": False,
            "use_rslora": False,
            "use_dora": False,
        },
    )


def read_adapter(
    folder: str | os.PathLike, table: Sequence[Weight], shapes: Mapping[str, Any]
) -> tuple[dict, dict[str, Any]]:
    """Read a LoRA adapter.

    Args:
      table, shapes: weights and parameter shapes of the base model.

    Returns:
      The adapter's tree and the fields of LoraConfig: r, lora_alpha, lora_dropout, target_modules.

    Raises:
      BadInput: not a plain LoRA adapter, of another base model, only for some of the layers, not
        of the rank that adapter_config.json says, or not finite.
    """
    folder = local_copy(folder)
    config = read_config(folder)
    base_shapes: dict[str, Any] = traverse_util.flatten_dict(dict(shapes), sep="/")
    tensors = read_tensors(folder, stems=(STEM,))
    flat = {}
    used = set()
    for path, weight in _kernels(table).items():
        names = {letter: _tensor_names(weight, letter) for letter in "AB"}
        expected = names["A"] + names["B"]
        missing = [name for name in expected if name not in tensors]
        if len(missing) == len(expected):  # this module has no adapter
            continue
        if missing:
            raise BadInput(
                f"{folder}: tensor {missing[0]!r} is missing; the adapter must cover all layers",
                source=folder,
                field=missing[0],
            )
        inputs, outputs = base_shapes[f"{path}/kernel"].shape[-2:]
        for letter, expected_shape in (("A", (config.r, inputs)), ("B", (outputs, config.r))):
            layers = [
                _read_matrix(tensors, name, expected_shape, config.r) for name in names[letter]
            ]
            flat[f"{path}/{letter.lower()}"] = np.stack([layer.T for layer in layers])
        used.update(expected)
    if unused := sorted(set(tensors) - used):
        raise BadInput(
            f"{folder}: tensor {unused[0]!r} fits no layer; is it the adapter of another model?",
            source=folder,
            field=unused[0],
        )
    if not flat:
        raise BadInput(f"{folder}: the adapter has no tensors; export it again", source=folder)
    check_finite(flat, folder, (STEM,))
    modules = tuple(sorted({re.sub(r".*/(\w+)/[ab]$", r"\1", path) for path in flat}))
    settings = {
        "r": config.r,
        "lora_alpha": config.lora_alpha,
        "lora_dropout": config.lora_dropout or 0.0,
        "target_modules": modules,
    }
    return traverse_util.unflatten_dict(flat, sep="/"), settings


def read_config(folder: str | os.PathLike) -> AdapterFile:
    """Read adapter_config.json.

    Raises:
      BadInput: the file is missing or invalid, or its adapter is not plain LoRA.
    """
    file = as_path(folder) / "adapter_config.json"
    fields = read_json(file)
    config = read_fields(AdapterFile, fields, str(file))
    if config.peft_type != "LORA":
        raise BadInput(
            f"{file}: peft_type is {config.peft_type!r}; only 'LORA' is supported",
            source=file,
            field="peft_type",
        )
    for name, supported in PLAIN_LORA.items():
        if fields.get(name) not in supported:
            raise BadInput(
                f"{file}: {name}={fields[name]!r} is not supported; merge the adapter with peft"
                " first",
                source=file,
                field=name,
            )
    return config


def _read_matrix(tensors: TensorFolder, name: str, expected: tuple[int, int], r: int) -> np.ndarray:
    matrix = np.asarray(tensors[name])
    if matrix.shape != expected:
        raise BadInput(
            f"{tensors.file(name)}: tensor {name!r} has shape {list(matrix.shape)}; r={r} of"
            f" adapter_config.json and the base model need {list(expected)}",
            source=tensors.file(name),
            field=name,
        )
    return matrix


def _kernels(table: Sequence[Weight]) -> dict[str, Weight]:
    """Path of a dense layer -> the weight of its kernel."""
    suffix = "/kernel"
    return {
        weight.path.removesuffix(suffix): weight for weight in table if weight.path.endswith(suffix)
    }


def _tensor_names(weight: Weight, letter: str) -> list[str]:
    """PEFT's names of matrix A or B, one per layer."""
    modules = [name.removesuffix(".weight") for name in weight.hf_names()]
    return [f"{PREFIX}{module}.lora_{letter}.weight" for module in modules]
