"""Loads a diffusers pipeline from a folder or the Hugging Face Hub (extra `torch`)."""

import dataclasses
import difflib
import hashlib
import importlib.metadata
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pav_jax.checkpoints import embedded
from pav_jax.checkpoints.digest import add_files
from pav_jax.checkpoints.hub import REPOSITORY, local_folder
from pav_jax.errors import BadInput
from pav_jax.storage.addresses import is_remote
from pav_jax.storage.json_files import read_json
from pav_jax.video import generation_config, modular_pipeline
from pav_jax.video.diffusers_errors import LOADING_ERRORS, one_line

HASHED_SUFFIXES = (".json", ".safetensors", ".model", ".txt")
# of a modular pipeline on the Hub: everything but pickles and pictures
MODULAR_FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
DTYPES = ("float32", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class LoadedPipeline:
    """A diffusers pipeline on its device.

    Attributes:
      name: the folder or Hub name.
      settings: the fields of the folder's pav_generation.json.
      digest: hash of weights and configurations.
    """

    pipeline: Any
    name: str
    settings: dict[str, Any]
    digest: str


def load(name: str, dtype: str) -> LoadedPipeline:
    """Loads the pipeline in the folder or Hub repository `name`.

    Raises:
      BadInput: torch or diffusers is not installed, or there is no complete pipeline.
    """
    torch, diffusers = import_libraries()
    if dtype not in DTYPES:
        raise BadInput(
            f"dtype={dtype!r}: choose one of {', '.join(DTYPES)}", source="generator", field="dtype"
        )
    folder = _local_folder(diffusers, name)
    is_modular = modular_pipeline.is_modular(folder)
    if not is_modular:
        _check_complete(diffusers, folder)
        _check_safetensors(folder)
    settings_file = folder / generation_config.FILE
    settings = read_json(settings_file) if settings_file.exists() else {}
    accelerator = torch.accelerator
    device = accelerator.current_accelerator() if accelerator.is_available() else "cpu"
    try:
        if is_modular:
            pipeline = modular_pipeline.load(diffusers, folder, getattr(torch, dtype), device)
        else:
            pipeline = diffusers.DiffusionPipeline.from_pretrained(
                folder,
                dtype=getattr(torch, dtype),
                trust_remote_code=False,
                use_safetensors=True,
            )
            pipeline.to(device)
    except BadInput:
        raise
    except torch.OutOfMemoryError as error:
        raise BadInput(
            f"{name}: does not fit into the memory of torch's device ({one_line(error)})",
            source=name,
        ) from error
    except LOADING_ERRORS as error:
        raise BadInput(
            f"{name}: diffusers cannot load this pipeline ({one_line(error)})", source=name
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    digest = modular_pipeline.digest(folder, HASHED_SUFFIXES) if is_modular else _digest(folder)
    return LoadedPipeline(pipeline, name, settings, digest)


def import_libraries() -> tuple[Any, Any]:
    """(torch, diffusers).

    Raises:
      BadInput: one of them is not installed.
    """
    try:
        import diffusers
        import torch
    except ImportError as error:
        raise BadInput(
            f"the diffusers back end needs torch and diffusers ({error}); pip install"
            " 'pav-jax[torch]'"
        ) from error
    return torch, diffusers


def _local_folder(diffusers: Any, name: str) -> Path:
    """The folder `name`, or the downloaded files that diffusers would load from the Hub."""
    if name.startswith(embedded.PREFIX) or is_remote(name) or Path(name).is_dir():
        return local_folder(name)
    if not REPOSITORY.fullmatch(name):
        raise BadInput(
            f"{name}: no such folder; give a diffusers pipeline's folder or its Hub name"
            " (owner/name)",
            source=name,
        )
    try:
        if _has_only_a_modular_index(name):
            return local_folder(name, MODULAR_FILES)
        folder = diffusers.DiffusionPipeline.download(
            name, use_safetensors=True, trust_remote_code=False
        )
        return Path(folder)
    except LOADING_ERRORS as error:
        raise BadInput(
            f"{name}: no such folder, and it could not be downloaded from the Hugging Face Hub"
            f" ({one_line(error)}); check the name and the network",
            source=name,
        ) from error


def _has_only_a_modular_index(name: str) -> bool:
    """Whether a Hub repository has the index of a modular pipeline and no ordinary one."""
    import huggingface_hub

    file = modular_pipeline.INDEX
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        is_cached = [
            isinstance(huggingface_hub.try_to_load_from_cache(name, index), str)
            for index in (file, "model_index.json")
        ]
        return is_cached == [True, False]
    exists = huggingface_hub.file_exists
    return exists(name, file) and not exists(name, "model_index.json")


def _check_complete(diffusers: Any, folder: Path) -> None:
    """Raises BadInput for a class that diffusers does not have, or a missing component."""
    file = folder / "model_index.json"
    index = read_json(file)
    name = index.get("_class_name")
    if not isinstance(name, str) or not hasattr(diffusers, name):
        pipelines = [n for n in dir(diffusers) if n.endswith("Pipeline")]
        similar = difflib.get_close_matches(str(name), pipelines, n=3)
        version = importlib.metadata.version("diffusers")
        hint = f"it has {', '.join(similar)}" if similar else "a newer diffusers may"
        raise BadInput(
            f"{file}: _class_name is {name!r}, which diffusers {version} does not have; {hint}",
            source=file,
            field="_class_name",
        )
    components = _components(index)
    for component in components:
        if not (folder / component).is_dir():
            raise BadInput(
                f"{folder}: the folder {component!r} is missing; this {name} has"
                f" {', '.join(components)}",
                source=folder,
                field=component,
            )


def _check_safetensors(folder: Path) -> None:
    """Raises BadInput for a component with pickled weights only: loading a pickle may run code."""
    for component in _components(read_json(folder / "model_index.json")):
        pickles = sorted((folder / component).glob("*model*.bin"))
        if pickles and not any((folder / component).glob("*.safetensors")):
            raise BadInput(
                f"{pickles[0]}: only safetensors are loaded; convert {component!r}: load it with"
                " its class in diffusers or transformers and call save_pretrained",
                source=folder,
                field=component,
            )


def _components(index: Mapping[str, Any]) -> list[str]:
    """The folders that a model_index.json names; a component may be left out as [null, null]."""
    return [
        name
        for name, classes in index.items()
        if isinstance(classes, list) and len(classes) == 2 and classes[1] is not None
    ]


def _digest(folder: Path) -> str:
    """Hash of model_index.json and of every component's files."""
    digest = hashlib.sha256()
    add_files(digest, folder / "model_index.json", HASHED_SUFFIXES)
    for component in sorted(_components(read_json(folder / "model_index.json"))):
        digest.update(component.encode())
        add_files(digest, folder / component, HASHED_SUFFIXES)
    return digest.hexdigest()
