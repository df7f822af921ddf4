"""Modular pipelines of diffusers, which are put together from blocks and saved with a
modular_model_index.json: loaded without code of the checkpoint, and called as other pipelines are.
"""

import hashlib
import inspect
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pav_jax.checkpoints.digest import add_files
from pav_jax.errors import BadInput
from pav_jax.storage.json_files import read_json
from pav_jax.video.diffusers_errors import LOADING_ERRORS, one_line

INDEX = "modular_model_index.json"
VIDEO_OUTPUTS = ("videos", "frames", "images")
AUDIO_OUTPUT = "audio"
LIBRARIES = ("diffusers", "transformers")  # whose classes components may have


def is_modular(folder: Path) -> bool:
    """Whether the folder has the index of a modular pipeline and none of an ordinary one."""
    return (folder / INDEX).is_file() and not (folder / "model_index.json").is_file()


class ModularCall:
    """A modular pipeline with the interface of an ordinary one.

    Attributes:
      pipeline: the diffusers pipeline.
      parameters: the arguments of its call by name, as `inspect.signature` gives them.
    """

    def __init__(self, pipeline: Any):
        self.pipeline = pipeline
        blocks = pipeline.blocks
        self.parameters = {
            i.name: inspect.Parameter(
                i.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if i.required else i.default,
            )
            for i in blocks.inputs
            if i.name is not None
        }
        names = {output.name for output in (*blocks.outputs, *blocks.intermediate_outputs)}
        self._outputs = [name for name in (*VIDEO_OUTPUTS, AUDIO_OUTPUT) if name in names]

    def __call__(self, **arguments: Any) -> types.SimpleNamespace:
        """Runs the pipeline; the result has what it makes of `VIDEO_OUTPUTS` and audio."""
        return types.SimpleNamespace(**self.pipeline(output=self._outputs, **arguments))

    def __getattr__(self, name: str) -> Any:
        """A component or property of the pipeline."""
        return getattr(self.pipeline, name)

    @property
    def guider(self) -> Any:
        """The component that combines guided and unguided predictions; None without one."""
        return getattr(self.pipeline, "guider", None)

    @guider.setter
    def guider(self, guider: Any) -> None:
        self.pipeline.update_components(guider=guider)


def load(diffusers: Any, folder: Path, dtype: Any, device: Any) -> ModularCall:
    """Loads the pipeline of a folder.

    Raises:
      BadInput: it would run code of the folder, diffusers lacks its class, or a component cannot be
        loaded.
      Exception: what diffusers raises for other faults of the folder.
    """
    file = folder / INDEX
    index = read_json(file)
    _check_classes(diffusers, file, index)
    pipeline = diffusers.ModularPipeline.from_pretrained(folder, trust_remote_code=False)
    components = {}
    # one by one: `load_components` only logs what it cannot load
    for name, source in _sources(folder, index).items():
        _check_safetensors(folder, name, source)
        try:
            spec = pipeline.get_component_spec(name)
            components[name] = spec.load(dtype=dtype, trust_remote_code=False)
        except LOADING_ERRORS as error:
            raise BadInput(
                f"{file}: diffusers cannot load the component {name!r} from {source}"
                f" ({one_line(error)})",
                source=file,
                field=name,
            ) from error
    pipeline.update_components(**components)
    pipeline.to(device)
    return ModularCall(pipeline)


def digest(folder: Path, suffixes: tuple[str, ...]) -> str:
    """Hash of the index and of the components' files; of those elsewhere, of their address."""
    result = hashlib.sha256()
    add_files(result, folder / INDEX, suffixes)
    for name, source in sorted(_sources(folder, read_json(folder / INDEX)).items()):
        result.update(name.encode())
        if Path(source).is_dir():
            add_files(result, Path(source), suffixes)
        else:
            result.update(source.encode())
    return result.hexdigest()


def _check_classes(diffusers: Any, file: Path, index: Mapping[str, Any]) -> None:
    """Raises BadInput for blocks, a pipeline or components that are not classes of `LIBRARIES`."""
    for other in (file, file.with_name("config.json"), file.with_name("modular_config.json")):
        if other.is_file() and "auto_map" in read_json(other):
            raise BadInput(
                f"{other}: auto_map names code in the folder, which is never run; only blocks that"
                " are in diffusers work",
                source=other,
                field="auto_map",
            )
    for field in ("_class_name", "_blocks_class_name"):
        name = index.get(field)
        if name is None and field != "_class_name":
            continue
        if not isinstance(name, str) or not hasattr(diffusers, name):
            raise BadInput(
                f"{file}: {field} is {name!r}, which diffusers {diffusers.__version__} does not"
                " have; a newer one may",
                source=file,
                field=field,
            )
    for name, (*_, spec) in _components(index).items():
        kind = spec.get("type_hint") or [None]
        if kind[0] not in (None, *LIBRARIES):
            raise BadInput(
                f"{file}: the component {name!r} has the class {str(kind)[:80]}; only classes of"
                f" {' and '.join(LIBRARIES)} are loaded",
                source=file,
                field=name,
            )


def _components(index: Mapping[str, Any]) -> dict[str, list]:
    """Component -> (library, class, where it is), each as in the index."""
    return {
        name: value
        for name, value in index.items()
        if isinstance(value, list) and len(value) == 3 and isinstance(value[2], dict)
    }


def _sources(folder: Path, index: Mapping[str, Any]) -> dict[str, str]:
    """Component -> where its files are: a folder, or a Hub repository with the folder in it."""
    sources = {}
    for name, (_, _, spec) in _components(index).items():
        subfolder = str(spec.get("subfolder") or "")
        place = spec.get("pretrained_model_name_or_path") or spec.get("repo")
        if (folder / subfolder).is_dir() and subfolder:
            sources[name] = str(folder / subfolder)
        elif place:
            sources[name] = f"{place}/{subfolder}".rstrip("/")
    return sources


def _check_safetensors(folder: Path, name: str, source: str) -> None:
    """Raises BadInput for pickled weights without safetensors: loading a pickle may run code."""
    place = Path(source)
    pickles = sorted(place.glob("*model*.bin")) if place.is_dir() else []
    if pickles and not any(place.glob("*.safetensors")):
        raise BadInput(
            f"{pickles[0]}: only safetensors are loaded; convert {name!r}: load it with its class"
            " in diffusers or transformers and call save_pretrained",
            source=folder,
            field=name,
        )
