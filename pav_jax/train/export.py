"""Saves a trained model: a booster folder with merged parameters, and the adapter for PEFT."""

import dataclasses
import os

import jax

from pav_jax.checkpoints import embedded
from pav_jax.errors import BadInput
from pav_jax.language import lora, quantization
from pav_jax.language.language_model import LanguageModel
from pav_jax.parallel import processes
from pav_jax.storage.addresses import AnyPath, as_path
from pav_jax.storage.folders import atomic_folder
from pav_jax.train.config import TrainingConfig
from pav_jax.train.state import TrainState, lora_config


def save_booster(
    lm: LanguageModel, state: TrainState, fields: TrainingConfig, folder: AnyPath
) -> AnyPath:
    """Write `folder/booster` in the base model's dtype, and before it `folder/adapter`.

    The booster appears only when it is complete. Full fine-tuning has no adapter.

    Returns:
      The folder of the booster.

    Raises:
      BadInput: the disk is full or the folder cannot be written.
    """
    if fields.full_finetuning:
        params = jax.tree.map(
            lambda new, old: new.astype(old.dtype), state.trained["params"], lm.params
        )
    else:
        params = quantization.dequantize(lm.params, lm.model.dtype)
        params = lora.merge(params, state.trained["lora"], lora_config(fields))
    params, adapter = processes.gather_to_host((params, state.trained.get("lora")))
    booster = folder / "booster"
    if jax.process_index() == 0:
        try:
            if not fields.full_finetuning:
                adapted = lm.with_lora(adapter, lora_config(fields))
                adapted = dataclasses.replace(adapted, path=base_name(lm, folder / "adapter"))
                adapted.save_pretrained(folder / "adapter", merge_adapter=False)
            with atomic_folder(booster) as part:
                lm.with_params(params).save_pretrained(part)
        except OSError as error:
            raise BadInput(
                f"{booster}: could not be written ({error.strerror or error}); free disk space and"
                " run the same command again, the checkpoint of the last step is saved",
                source=booster,
            ) from error
    processes.barrier("booster")
    return booster


def base_name(lm: LanguageModel, adapter: AnyPath) -> str:
    """How an adapter refers to its base model, so that a work directory can be moved.

    mini:NAME, a path relative to the adapter for a booster of the same work directory, a Hub
    repository, or else the absolute path of a folder.
    """
    path = as_path(lm.path or lm.name)
    if path.parent == embedded.CHECKPOINTS:
        return embedded.PREFIX + path.name
    adapter = adapter.resolve()
    if path.is_relative_to(adapter.parents[1]):
        return os.path.relpath(path, adapter)
    return str(path)
