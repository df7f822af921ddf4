"""Compares the sizes in a model's config.json with its weights, before anything has those sizes.

Tables of positions and frequencies, and the evaluation of shapes, take memory and time that grow
with the sizes; a wrong one would fill the memory before it contradicts the first tensor.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pav_jax.errors import BadInput

DEPTHS = ("layers", "depth", "blocks")
ALWAYS_POSSIBLE = 2**20  # of a size that no weights have, as the number of positions


def check_sizes(config: Any, fields: Mapping[str, Any], path: Path) -> None:
    """Check that no size is larger than all weights beside config.json together.

    Args:
      config: the model's configuration, a dataclass, made from `fields`.
      fields: the content of the file `path`.

    Raises:
      BadInput: one is; the message names the file and the field.
    """
    total = sum(file.stat().st_size for file in path.parent.glob("*.safetensors"))
    if not total:  # a configuration without weights, as `pav check` reads
        return
    for name, size in _sizes(config):
        if size > max(total, ALWAYS_POSSIBLE):
            field = next((field for field, value in _leaves(fields) if value == size), name)
            raise BadInput(
                f"{path}: {field} is {size:,}, but the weights beside it have {total:,} bytes; use"
                " the config.json that belongs to them",
                source=path,
                field=field,
            )


def check_depths(config: Any, num_tensors: int, folder: Path) -> None:
    """Check that no number of layers is larger than the number of tensors.

    Args:
      config: the model's configuration, a dataclass.
      num_tensors: number of tensors of the model's weights in `folder`.

    Raises:
      BadInput: one is; the message names config.json and the field.
    """
    for name, depth in _leaves(dataclasses.asdict(config)):
        if depth > num_tensors and any(word in name for word in DEPTHS):
            raise BadInput(
                f"{folder}/config.json: {name} is {depth:,}, but there are only {num_tensors:,}"
                " tensors; use the config.json that belongs to them",
                source=folder / "config.json",
                field=name,
            )


def _sizes(config: Any) -> Iterator[tuple[str, int]]:
    """(name, value) of every integer of a configuration, and of the width that follows from it."""
    yield from _leaves(dataclasses.asdict(config))
    for owner in (config, *vars(config).values()):
        width = getattr(owner, "width", None)
        if isinstance(width, int):
            yield "width", width


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, int]]:
    """(dotted name, value) of the integers in nested mappings and lists."""
    if isinstance(value, Mapping):
        for key, entry in value.items():
            yield from _leaves(entry, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _leaves(entry, name)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield name, value
