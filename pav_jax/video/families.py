"""The families of text-to-video models that run in JAX, and which one a folder holds."""

from pathlib import Path

from pav_jax.errors import BadInput
from pav_jax.storage.json_files import read_json
from pav_jax.video import generation_config
from pav_jax.video.cogvideox import CogVideoX
from pav_jax.video.family import Family
from pav_jax.video.generation_config import GenerationConfig
from pav_jax.video.opensora import OpenSora
from pav_jax.video.wan import Wan
from pav_jax.video.wan_experts import wan_class

FAMILIES: dict[str, type[Family]] = {
    family.pipeline: family for family in (CogVideoX, OpenSora, Wan)
}


def family_class(folder: Path) -> type[Family]:
    """The family that model_index.json names.

    Raises:
      BadInput: no family has that name, or a Wan lacks an expert.
    """
    file = folder / "model_index.json"
    name = read_json(file).get("_class_name")
    if not isinstance(name, str) or name not in FAMILIES:
        raise BadInput(
            f"{file}: _class_name is {name!r}; supported: {', '.join(FAMILIES)}; any other pipeline"
            f" of diffusers runs on torch as diffusers:{folder} (pip install 'pav-jax[torch]')",
            source=file,
            field="_class_name",
        )
    return wan_class(folder) if FAMILIES[name] is Wan else FAMILIES[name]


def saved_settings(family: type[Family], folder: Path) -> GenerationConfig:
    """The family's settings with the fields of the folder's pav_generation.json."""
    defaults = family.default_settings(folder)
    file = folder / generation_config.FILE
    return defaults.replace(str(file), **read_json(file)) if file.exists() else defaults
