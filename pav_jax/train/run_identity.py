"""The identity of one training run, so that two runs never share a folder of checkpoints."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import jax

from pav_jax.errors import BadInput
from pav_jax.language.language_model import LanguageModel
from pav_jax.storage.addresses import AnyPath, list_names
from pav_jax.storage.folders import is_whole
from pav_jax.storage.json_files import read_json, write_json
from pav_jax.train import tfds_builders
from pav_jax.train.config import TrainingConfig

# May change when a training run is resumed: they do not change the loss curve.
FIELDS_NOT_IN_RUN_IDENTITY = {
    "logging_steps",
    "save_steps",
    "save_total_limit",
    "remat",
    "remat_policy",
    "unroll_layers",
    "loss_chunk_size",
    "gradient_accumulation_steps",
    "length_buckets",
    "packing",
    "pairs",
    "keep_videos",
}
FILE = "training.json"


def run_identity(
    name: str, fields: TrainingConfig, seed: int, lm: LanguageModel, path: str | os.PathLike
) -> dict[str, Any]:
    """Return what determines a training run: configuration, seed, data and model sizes."""
    identity = {
        "stage": name,
        "seed": seed,
        "data": tfds_builders.data_digest(path),
        "model": dataclasses.asdict(lm.config),
    }
    for field, value in dataclasses.asdict(fields).items():
        if field not in FIELDS_NOT_IN_RUN_IDENTITY:
            identity[field] = value
    return _as_json(identity)


def is_finished(folder: AnyPath, identity: dict[str, Any]) -> bool:
    """Whether `folder` has the booster of this training run.

    Raises:
      BadInput: it has checkpoints or the booster of a different training run.
    """
    has_booster = is_whole(folder / "booster")
    path = folder / FILE
    if path.exists() and (has_booster or list_names(folder / "checkpoints")):
        previous = read_json(path)
        keys = sorted({*identity, *previous})
        changed = [key for key in keys if identity.get(key) != previous.get(key)]
        if changed:
            key = changed[0]
            raise BadInput(
                f"{path}: this folder holds a training run with"
                f" {key}={previous.get(key)!s:.80}, now it is"
                f" {identity.get(key)!s:.80}; use another --workdir, or delete checkpoints and"
                f" booster in {folder.name}",
                source=path,
                field=key,
            )
    return has_booster


def write_run_identity(folder: AnyPath, identity: dict[str, Any]) -> None:
    """Bind `folder` to one training run; call it after all inputs have been checked."""
    if jax.process_index() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / FILE, identity)


def _as_json(value: Any) -> Any:
    """Return the value as JSON would read it back: tuples become lists."""
    if isinstance(value, Mapping):
        return {k: _as_json(v) for k, v in value.items()}
    return [_as_json(v) for v in value] if isinstance(value, (tuple, list)) else value
