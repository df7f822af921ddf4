"""Adapters in PEFT's LoRA layout: adapter_config.json and adapter_model.safetensors.

PEFT keeps `lora_A` as [R, in] and `lora_B` as [out, R] for each layer; ours are [L, in, R] and [L,
R, out].
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from pav_jax.checkpoints.safetensors import read_tensors, write_tensors
from pav_jax.errors import BadInput
from pav_jax.models.weights import Weight
from pav_jax.storage.json_files import read_json, write_json

STEM = "adapter_model"
PREFIX = "base_model.model."


def _rows(table: list[Weight]) -> dict[str, Weight]:
    """{path of a dense layer: its row}."""
    return {row.path.removesuffix("/kernel"): row for row in table if row.path.endswith("/kernel")}


def _names(row: Weight, letter: str) -> list[str]:
    return [
        f"{PREFIX}{name.removesuffix('.weight')}.lora_{letter}.weight" for name in row.hf_names()
    ]


def write_adapter(
    folder: str | Path,
    table: list[Weight],
    lora: Mapping,
    r: int,
    lora_alpha: float,
    lora_dropout: float,
    base: str = "",
) -> None:
    """Writes `lora` (see language/lora.py) so that `peft.PeftModel.from_pretrained` loads it on the
    same base.

    Args:
      table: the model's weight table; it names the tensors.
      base: what PEFT shows as the base model's name.
    """
    rows, flat, tensors = _rows(table), traverse_util.flatten_dict(lora, sep="/"), {}
    modules = sorted({path.rsplit("/", 1)[0] for path in flat})
    for module in modules:
        for letter in "AB":
            array = np.asarray(flat[f"{module}/{letter.lower()}"], np.float32)
            for name, part in zip(_names(rows[module], letter), array, strict=True):
                tensors[name] = np.ascontiguousarray(part.T)
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
            "target_modules": sorted({m.rsplit("/", 1)[1] for m in modules}),
            "bias": "none",
            "inference_mode": True,
            "fan_in_fan_out": False,
            "use_rslora": False,
            "use_dora": False,
        },
    )


def read_adapter(folder: str | Path, table: list[Weight]) -> tuple[dict, dict[str, Any]]:
    """Reads a LoRA adapter -> (lora tree, {"r", "lora_alpha", "lora_dropout", "target_modules"}).

    Raises:
      BadInput: not a plain LoRA adapter, of another base model, or adapting some layers only.
    """
    file = Path(folder) / "adapter_config.json"
    config = read_json(file)
    if (kind := config.get("peft_type")) != "LORA":
        raise BadInput(f"{file}: peft_type is {kind!r}; only 'LORA' is supported")
    plain = {
        "use_dora": (False, None),
        "use_rslora": (False, None),
        "bias": ("none", None),
        "rank_pattern": ({}, None),
        "alpha_pattern": ({}, None),
        "modules_to_save": (None, []),
    }
    for name, fine in plain.items():
        if config.get(name) not in fine:
            raise BadInput(
                f"{file}: {name}={config[name]!r} is not supported; merge the adapter with peft"
                " first"
            )
    tensors = read_tensors(folder, stems=(STEM,))
    flat, used = {}, set()
    for path, row in _rows(table).items():
        wanted = {letter: _names(row, letter) for letter in "AB"}
        present = [name for names in wanted.values() for name in names if name in tensors]
        if not present:
            continue
        if missing := [name for names in wanted.values() for name in names if name not in tensors]:
            raise BadInput(
                f"{folder}: tensor {missing[0]!r} is missing; an adapter of all layers is needed"
            )
        for letter, names in wanted.items():
            flat[f"{path}/{letter.lower()}"] = np.stack(
                [np.asarray(tensors[name]).T for name in names]
            )
        used.update(present)
    if extra := sorted(set(tensors) - used):
        raise BadInput(
            f"{folder}: tensor {extra[0]!r} fits no layer; is it another model's adapter?"
        )
    modules = tuple(sorted({re.sub(r".*/(\w+)/[ab]$", r"\1", path) for path in flat}))
    settings = {
        "r": int(config["r"]),
        "lora_alpha": float(config["lora_alpha"]),
        "lora_dropout": float(config.get("lora_dropout") or 0.0),
        "target_modules": modules,
    }
    return traverse_util.unflatten_dict(flat, sep="/"), settings
