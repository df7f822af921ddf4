"""The adapters of several trainings, each on the model that the one before made, as one adapter on
the first model."""

import dataclasses
import os
from pathlib import Path

from pav_jax.checkpoints import embedded, peft
from pav_jax.checkpoints.hub import local_folder
from pav_jax.errors import BadInput
from pav_jax.language.lora import LoraConfig, concatenate
from pav_jax.models.llama import LlamaConfig, hf
from pav_jax.storage.json_files import read_json


@dataclasses.dataclass(frozen=True)
class JoinedAdapter:
    """A LoRA tree with its settings, the sizes of its model, and where that model is."""

    lora: dict
    settings: LoraConfig
    sizes: LlamaConfig
    base: str


def joined_adapter(booster: str | Path) -> JoinedAdapter:
    """The adapters in the folders beside `booster` and beside the boosters it was trained from,
    joined.

    Raises:
      BadInput: no adapter beside it, as when all parameters were trained, or a broken one.
    """
    booster = local_folder(booster)
    config = booster / "config.json"
    sizes = hf.config_from_hf(read_json(config), str(config))
    found, base = [], str(booster.resolve())
    while (Path(base).parent / "adapter" / "adapter_config.json").exists() and Path(
        base
    ).name == "booster":
        folder = Path(base).parent / "adapter"
        lora, settings = peft.read_adapter(folder, hf.weights(sizes))
        found.append((lora, LoraConfig(**settings)))
        base = read_json(folder / "adapter_config.json")["base_model_name_or_path"]
        if base.startswith(embedded.PREFIX):
            base = str(local_folder(base))
        elif base.startswith(os.pardir):
            base = str((folder / base).resolve())
    if not found:
        raise BadInput(
            f"{booster}: no adapter folder beside it; only boosters trained with LoRA have one, use"
            " --to=hf"
        )
    lora, settings = concatenate(found[::-1])
    return JoinedAdapter(lora, settings, sizes, base)


def write_joined(folder: str | os.PathLike, adapter: JoinedAdapter) -> None:
    """Writes the folder that `peft.PeftModel.from_pretrained` loads on the model at
    `adapter.base`."""
    c = adapter.settings
    peft.write_adapter(
        folder,
        hf.weights(adapter.sizes),
        adapter.lora,
        c.r,
        c.lora_alpha,
        c.lora_dropout,
        adapter.base,
    )
