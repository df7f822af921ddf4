"""Adapters in PEFT's LoRA layout: adapter_config.json and adapter_model.safetensors.

PEFT has `lora_A` as [R, in] and `lora_B` as [out, R] for each layer; ours are stacked over layers,
[L, in, R] and [L, R, out]. A fused layer such as Phi-3's `qkv_proj` is several of ours, which share
`lora_A`; each has some rows of `lora_B`.
"""

import dataclasses
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from pav_jax.checkpoints.folder import check_finite
from pav_jax.checkpoints.safetensors import TensorFolder, read_tensors, write_tensors
from pav_jax.errors import BadInput
from pav_jax.models.decoder import hf
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
    use_rslora: bool | None = False
    base_model_name_or_path: str | None = None

    @property
    def plain_lora_alpha(self) -> float:
        """`lora_alpha` of the same adapter without rank-stabilized scaling, alpha / sqrt(r)."""
        return self.lora_alpha * math.sqrt(self.r) if self.use_rslora else self.lora_alpha


# fields of adapter_config.json that do not change what the adapter computes, or are read; any other
# field must be unset
HARMLESS_FIELDS = {
    *(field.name for field in dataclasses.fields(AdapterFile)),
    "task_type",
    "auto_mapping",
    "peft_version",
    "revision",
    "inference_mode",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "init_lora_weights",
    "loftq_config",
    "eva_config",
    "corda_config",
    "lora_ga_config",
    "megatron_config",
    "megatron_core",
    "qalora_group_size",
    "ensure_weight_tying",
}
# other initialisations may subtract the adapter from the base model's weights
INITIALISATIONS = ("none", "true", "false", "gaussian", "orthogonal")


def write_adapter(
    folder: str | Path,
    table: Sequence[Weight],
    lora: Mapping,
    r: int,
    lora_alpha: float,
    lora_dropout: float,
    base: str = "",
    is_wrapped: bool = False,
    dtype: str = "float32",
) -> None:
    """Write an adapter that `peft.PeftModel.from_pretrained` loads on the same base model.

    Args:
      table: the base model's weights; it names the tensors.
      lora: the adapter, see language/lora.py.
      r, lora_alpha, lora_dropout: as PEFT's LoraConfig.
      base: the base model's name or path, `base_model_name_or_path` in the file.
      is_wrapped: whether the base is a vision-language model, and the adapter its decoder's.
      dtype: of the tensors in the file, "float32" or "bfloat16".
    """
    decoder = hf.PREFIX_IN_WRAPPER if is_wrapped else hf.DECODER_PREFIX
    matrices = _fuse(table, lora)
    rank = max((a.shape[-1] for a, _ in matrices.values()), default=r)
    tensors = {}
    for hf_name, pair in matrices.items():
        weight = next(weight for weight in table if weight.hf == hf_name)
        for letter, axis, stack in zip("AB", (2, 1), pair, strict=True):
            missing = [(0, rank - stack.shape[i] if i == axis else 0) for i in range(3)]
            names = _tensor_names(weight, letter)
            for name, layer in zip(names, np.pad(stack, missing), strict=True):
                name = name.replace(PREFIX + hf.DECODER_PREFIX, PREFIX + decoder, 1)
                tensors[name] = np.ascontiguousarray(layer.T, jnp.dtype(dtype))
    targets: Any = sorted({name.split(".")[-2] for name in matrices})
    if is_wrapped:  # a vision tower has layers of the same names; peft takes a text as a pattern
        targets = rf"{re.escape(decoder)}layers\..*\.({'|'.join(targets)})"
    write_tensors(folder, tensors, STEM)
    write_json(
        Path(folder) / "adapter_config.json",
        {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base,
            "r": rank,
            "lora_alpha": lora_alpha if rank == r else lora_alpha * rank / r,
            "lora_dropout": lora_dropout,
            "target_modules": targets,
            "bias": "none",
            "inference_mode": True,
            "fan_in_fan_out": False,
            "use_rslora": False,
            "use_dora": False,
        },
    )


def _fuse(table: Sequence[Weight], lora: Mapping) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Name of a tensor of the base model, with `{layer}` -> its `a` [L, in, R] and `b` [L, R, out].

    Parts of one tensor that do not share `a` have their own columns of it, and zeros in those of
    `b` that belong to other parts.
    """
    flat: dict[str, Any] = traverse_util.flatten_dict(lora, sep="/")
    parts: dict[str, list[tuple[Weight, np.ndarray, np.ndarray]]] = {}
    for path, weight in _kernels(table).items():
        if f"{path}/a" in flat:
            a, b = (np.asarray(flat[f"{path}/{letter}"], np.float32) for letter in "ab")
            parts.setdefault(weight.hf, []).append((weight, a, b))
    return {name: _fuse_parts(group) for name, group in parts.items()}


def _fuse_parts(
    group: Sequence[tuple[Weight, np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray]:
    weight, a, b = group[0]
    if weight.rows is None:
        return a, b
    columns: list[np.ndarray] = []
    places = []
    for _, a, _ in group:
        equal = (i for i, other in enumerate(columns) if np.array_equal(other, a))
        place = next(equal, len(columns))
        columns += [a] if place == len(columns) else []
        places.append(place)
    num_layers, rank, _ = b.shape
    fused = np.zeros((num_layers, rank * len(columns), weight.rows[2]), np.float32)
    for (weight, _, b), place in zip(group, places, strict=True):
        assert weight.rows is not None
        start, stop, _ = weight.rows
        fused[:, place * rank : (place + 1) * rank, start:stop] = b
    return np.concatenate(columns, -1), fused


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
    prefixes = {PREFIX + wrapped: PREFIX + plain for wrapped, plain in hf.PREFIXES.items()}
    tensors = read_tensors(folder, stems=(STEM,)).with_prefixes(prefixes)
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
        first, last, outputs = weight.rows or (0, outputs, outputs)
        for letter, expected_shape in (("A", (config.r, inputs)), ("B", (outputs, config.r))):
            layers = [
                _read_matrix(tensors, name, expected_shape, config.r).T for name in names[letter]
            ]
            stack = np.stack(layers)
            flat[f"{path}/{letter.lower()}"] = stack if letter == "A" else stack[..., first:last]
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
        "lora_alpha": config.plain_lora_alpha,
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
    initialisation = fields.get("init_lora_weights")
    if str(initialisation).lower() not in INITIALISATIONS:
        raise BadInput(
            f"{file}: init_lora_weights={str(initialisation)[:60]!r} changes the base model, which"
            " is not part of the adapter; convert it with peft"
            " (path_initial_model_for_weight_conversion of save_pretrained), or merge it first",
            source=file,
            field="init_lora_weights",
        )
    for name, value in fields.items():
        if name not in HARMLESS_FIELDS and value and (name, value) != ("bias", "none"):
            raise BadInput(
                f"{file}: {name}={str(value)[:60]!r} is not supported; merge the adapter with peft"
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
