"""Reads what the diffusers folders of all families have in common, and checks sizes."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from pav_jax.checkpoints import folder as folders
from pav_jax.errors import BadInput
from pav_jax.models.weights import loaded_shapes
from pav_jax.storage.json_files import read_json
from pav_jax.video import schedulers


def check_components(folder: Path, names: Sequence[str], pipeline: str) -> None:
    """Raises BadInput if one of the folders `names` is missing."""
    for name in names:
        if not (folder / name).is_dir():
            raise BadInput(
                f"{folder}: the folder {name!r} is missing; {pipeline} pipeline has"
                f" {', '.join(names)}"
            )


def check_tiling(family: Any, vae_tiling: bool) -> None:
    """Raises BadInput if `vae_tiling` is set and the family's VAE cannot decode tiles."""
    if vae_tiling and not family.tiles:
        name = family.__name__ if isinstance(family, type) else type(family).__name__
        raise BadInput(
            f"vae_tiling: the VAE of {name} decodes whole frames only; leave it out",
            source="generator",
            field="vae_tiling",
        )


def check_multiples(height: int, width: int, step: int) -> None:
    """Raises BadInput, with the nearest valid sizes, if one is not a multiple of `step`."""
    for name, value in (("height", height), ("width", width)):
        if value < step or value % step:
            low = max(value // step, 1) * step
            raise BadInput(
                f"{name}={value}: this model makes multiples of {step}; nearest: {low} and"
                f" {low + step}",
                source="generate",
                field=name,
            )


def scheduler_settings(folder: Path, scheduler: Mapping[str, Any] | str | None) -> dict[str, Any]:
    """The folder's scheduler configuration, or `scheduler`; a class name keeps the folder's
    settings."""
    if isinstance(scheduler, Mapping):
        return dict(scheduler)
    settings = read_json(folder / "scheduler" / "scheduler_config.json")
    return settings | {"_class_name": scheduler} if scheduler else settings


def load_scheduler(
    folder: Path, settings: Mapping[str, Any], supported: Collection[str]
) -> schedulers.Scheduler:
    """The scheduler of a configuration.

    Raises:
      BadInput: its class is not among the `supported` ones.
    """
    source = folder / "scheduler" / "scheduler_config.json"
    name = settings.get("_class_name")
    if not isinstance(name, str) or name not in supported:
        raise BadInput(
            f"{source}: _class_name is {name!r}; this model samples with"
            f" {', '.join(sorted(supported))}",
            source=source,
            field="_class_name",
        )
    return schedulers.load(settings, str(source))


def read_config(layout: Any, folder: Path) -> Any:
    """The configuration in a model's folder, as its `hf.py` module (`layout`) reads it.

    Raises:
      BadInput: it is missing or invalid, or its sizes contradict each other.
    """
    config = folders.read_config(layout, folder)
    folders.param_shapes(layout, config, folder)
    return config


def param_shapes(layout: Any, config: Any, dtype: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of the parameters that loading a model as `dtype` gives."""
    return loaded_shapes(layout.weights(config), folders.traced_shapes(layout, config), dtype)
