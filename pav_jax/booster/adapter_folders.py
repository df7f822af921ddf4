"""Adapters that users name: PEFT folders with a card, of their own or shipped with the package."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pav_jax.checkpoints import peft
from pav_jax.checkpoints.hub import REPOSITORY, local_folder
from pav_jax.errors import BadInput
from pav_jax.language.adapters import base_of
from pav_jax.language.model_files import ADAPTER_FILES, SMOLLM2
from pav_jax.storage.addresses import AnyPath, as_path, is_remote
from pav_jax.storage.folders import file_sizes, partial_copy

WEIGHTS = re.compile(rf"{peft.STEM}.*\.safetensors")
SHIPPED = Path(__file__).with_name("adapters")
CONFIG = "adapter_config.json"
CARD = "README.md"
DEFAULT = "cogvideox"  # the shipped adapter that rewrites where none is named
MAX_DEPTH = 3  # folders below the one that is searched: a folder of work directories


@dataclasses.dataclass(frozen=True)
class NamedAdapter:
    """An adapter by the name that requests use.

    Attributes:
      name: of the adapter.
      path: its folder or Hub repository.
    """

    name: str
    path: str


@dataclasses.dataclass(frozen=True)
class AdapterSummary:
    """What a list of adapters shows.

    Attributes:
      name: of a shipped adapter, or its folder, relative to the one that was searched.
      path: its folder.
      base: the path or Hub repository of its base model; empty if the files do not say.
      generator: the video model whose style it writes; empty if there is no card that says it.
      rank: of the LoRA matrices.
      num_bytes: size of the weights.
    """

    name: str
    path: str
    base: str
    generator: str
    rank: int
    num_bytes: int


def shipped() -> dict[str, Path]:
    """Return the folders of the adapters that come with the package, by name."""
    return {file.parent.name: file.parent for file in sorted(SHIPPED.glob(f"*/{CONFIG}"))}


def style_adapter(style: str) -> NamedAdapter:
    """Return the shipped adapter that writes prompts for a video model.

    Raises:
      BadInput: none writes for this one.
    """
    folders = shipped()
    if style not in folders:
        raise BadInput(
            f"--for={style}: choose one of {', '.join(folders)}, or name another adapter with"
            " --adapter",
            source="--for",
        )
    return NamedAdapter(style, str(folders[style]))


def read_options(arguments: Sequence[str]) -> list[NamedAdapter]:
    """Return the adapters that options `--adapter=[NAME=]PATH` name.

    PATH is a folder, a Hub repository, or the name of a shipped adapter. Without NAME it is called
    by the last part of PATH.

    Raises:
      BadInput: there is no such adapter, or two have the same name.
    """
    adapters: dict[str, NamedAdapter] = {}
    for argument in arguments:
        adapter = _read_option(argument)
        if adapter.name in adapters:
            raise BadInput(
                f"--adapter={argument}: another adapter is called {adapter.name} too; write"
                " NAME=PATH with another name",
                source="--adapter",
            )
        adapters[adapter.name] = adapter
    return list(adapters.values())


def _read_option(argument: str) -> NamedAdapter:
    name, equals, path = argument.partition("=")
    if not equals or "/" in name:  # a path may contain "="
        path = argument
        name = Path(path).resolve().name if Path(path).is_dir() else Path(path).name
    if not name or not path:
        raise BadInput(f"--adapter={argument}: write NAME=PATH or PATH", source="--adapter")
    folders = shipped()
    if path in folders:
        return NamedAdapter(name, str(folders[path]))
    if not is_remote(path) and not Path(path).is_dir() and not REPOSITORY.fullmatch(path):
        raise BadInput(
            f"--adapter={argument}: there is no folder {path}; name the folder of a PEFT adapter, a"
            f" Hub repository, or a shipped one ({', '.join(folders) or 'there are none'})",
            source="--adapter",
        )
    return NamedAdapter(name, path)


def common_base(adapters: Sequence[NamedAdapter]) -> str:
    """Return the path or Hub repository of the base model that all adapters were trained on.

    For shipped adapters it is the wheel's copy of the model, which they were trained on.

    Raises:
      BadInput: they do not have the same base model, or one does not name it.
    """
    if {Path(adapter.path) for adapter in adapters} <= set(shipped().values()):
        return SMOLLM2
    bases = {a.name: base_of(local_folder(a.path, ADAPTER_FILES)) for a in adapters}
    if len(set(bases.values())) > 1:
        pairs = ", ".join(f"{name} for {base}" for name, base in bases.items())
        raise BadInput(
            f"--adapter: these are for different base models: {pairs}; leave some out, or name one"
            " with --model",
            source="--adapter",
        )
    return bases[adapters[0].name]


def find_adapters(folder: str) -> list[tuple[AnyPath, str]]:
    """Return the folders of adapters in a folder, at most three levels below it, in order.

    Returns:
      Each with its name: the path from the folder that is searched, or the name of that folder.

    Raises:
      BadInput: there is no such folder, or no adapter in it.
    """
    root = as_path(folder)
    if not root.is_dir():
        raise BadInput(f"{folder}: no such folder", source=folder)
    patterns = ["*/" * depth + CONFIG for depth in range(MAX_DEPTH + 1)]
    folders = [file.parent for pattern in patterns for file in root.glob(pattern)]
    if not folders:
        raise BadInput(
            f"{folder}: no adapter in it; a folder of one has {CONFIG}, see pav export --to=peft",
            source=folder,
        )
    return [
        (path, path.resolve().name if path == root else path.relative_to(root).as_posix())
        for path in sorted(folders)
    ]


def summarize(folder: AnyPath, name: str) -> AdapterSummary:
    """Return what a list shows of an adapter.

    Raises:
      BadInput: adapter_config.json or the card is invalid, or there are no weights.
    """
    config = peft.read_config(folder)
    sizes = {name: size for name, size in file_sizes(folder).items() if WEIGHTS.fullmatch(name)}
    if not sizes:
        raise BadInput(
            f"{folder}: {peft.STEM}.safetensors is missing; export the adapter again", source=folder
        )
    card = read_card(folder)
    base = config.base_model_name_or_path or ""
    generator = str(card.get("generator") or "")
    return AdapterSummary(name, str(folder), base, generator, config.r, sum(sizes.values()))


def read_card(folder: AnyPath) -> dict[str, Any]:
    """Return the fields in the header of an adapter's README.md; none if there is no header.

    Raises:
      BadInput: the header is not YAML.
    """
    from huggingface_hub import metadata_load

    file = partial_copy(folder, (CARD,), is_flat=True) / CARD
    if not file.is_file():
        return {}
    try:
        return metadata_load(file) or {}
    except Exception as error:  # of YAML, of characters, or that it has no fields
        reason = " ".join(str(error).split())[:100]
        raise BadInput(
            f"{file}: its header cannot be read ({reason}); correct or remove it", source=file
        ) from error
