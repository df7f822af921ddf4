"""Joins the LoRA adapters of consecutive training runs into one adapter for the first base model.

Each run starts from the booster of the previous run.
"""

import dataclasses
import os
import shutil
from pathlib import Path

from pav_jax.checkpoints import embedded, peft
from pav_jax.checkpoints import folder as folders
from pav_jax.checkpoints.hub import local_folder
from pav_jax.checkpoints.tokenizers import TOKENIZER_FILES, make_portable
from pav_jax.errors import BadInput
from pav_jax.language import model_files
from pav_jax.language.lora import LoraConfig, concatenate
from pav_jax.models.decoder import DecoderConfig, hf
from pav_jax.storage.addresses import AnyPath, as_path, is_remote
from pav_jax.storage.folders import partial_copy
from pav_jax.storage.json_files import write_json


@dataclasses.dataclass(frozen=True)
class JoinedAdapter:
    """An adapter and the model it belongs to.

    Attributes:
      lora: the adapter's tree.
      lora_config: its settings.
      config: the model's configuration.
      base: the path or Hub repository of the model.
      booster: the folder of the model with the adapters merged.
      is_wrapped: whether `base` is a vision-language model.
    """

    lora: dict
    lora_config: LoraConfig
    config: DecoderConfig
    base: str
    booster: AnyPath
    is_wrapped: bool = False


def joined_adapter(booster: str | Path) -> JoinedAdapter:
    """Join the adapters beside `booster` and beside the boosters it was trained from.

    Raises:
      BadInput: there is no adapter beside it, as after full fine-tuning, or it is corrupt.
    """
    if not is_remote(booster):
        booster = local_folder(booster)
    config = folders.read_config(hf, booster)
    shapes = folders.param_shapes(hf, config, booster)
    adapters = []
    base = str(as_path(booster).resolve())
    seen = set()
    while _has_adapter(base):
        folder = as_path(base).parent / "adapter"
        if base in seen:
            raise BadInput(
                f"{folder}/adapter_config.json: base_model_name_or_path leads back to {base}; name"
                " the model that the adapter was trained on",
                source=folder / "adapter_config.json",
                field="base_model_name_or_path",
            )
        seen.add(base)
        lora, settings = peft.read_adapter(folder, hf.weights(config), shapes)
        adapters.append((lora, LoraConfig(**settings)))
        base = base_of(folder)
    if not adapters:
        raise BadInput(
            f"{booster}: no adapter folder beside it; only boosters trained with LoRA have one, use"
            " --to=hf",
            source=booster,
        )
    lora, lora_config = concatenate(adapters[::-1])
    is_wrapped = model_files.is_wrapped(base)
    return JoinedAdapter(lora, lora_config, config, base, as_path(booster), is_wrapped)


def _has_adapter(base: str) -> bool:
    path = as_path(base)
    return path.name == "booster" and (path.parent / "adapter" / "adapter_config.json").exists()


def base_of(adapter: AnyPath) -> str:
    """Return the path or Hub repository of the model that an adapter was trained on.

    Raises:
      BadInput: adapter_config.json is missing, invalid, or names no model.
    """
    base = peft.read_config(adapter).base_model_name_or_path
    if not base:
        raise BadInput(
            f"{adapter}/adapter_config.json: base_model_name_or_path is missing; name the model"
            " that the adapter was trained on",
            source=adapter / "adapter_config.json",
            field="base_model_name_or_path",
        )
    if base.startswith(embedded.PREFIX):
        return str(local_folder(base))
    if base.startswith(os.pardir):  # relative to the adapter, so that a work directory can move
        return str((adapter / base).resolve())
    return base


def write_joined(folder: str | Path, adapter: JoinedAdapter, dtype: str = "float32") -> None:
    """Write the folder that `peft.PeftModel.from_pretrained` loads on the model at
    `adapter.base`, with the booster's tokenizer, its chat template, which has the instruction,
    and its sampling.
    """
    config = adapter.lora_config
    peft.write_adapter(
        folder,
        hf.weights(adapter.config),
        adapter.lora,
        config.r,
        config.lora_alpha,
        config.lora_dropout,
        adapter.base,
        adapter.is_wrapped,
        dtype,
    )
    files = (*TOKENIZER_FILES, model_files.GENERATION)
    source = partial_copy(adapter.booster, files, is_flat=True)
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, Path(folder) / name)
    make_portable(folder)
    if sampling := model_files.adapter_sampling(source):
        write_json(Path(folder) / model_files.GENERATION, sampling)


def is_portable(base: str) -> bool:
    """Return whether PEFT finds the base model of this name on another machine."""
    if base == model_files.SMOLLM2 or base.endswith(".gguf"):
        return False
    return is_remote(base) or not (Path(base).is_absolute() or Path(base).exists())
