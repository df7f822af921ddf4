"""What the model families have in common as folders: reading and writing their components."""

import abc
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from pav_jax.checkpoints.folder import load, save
from pav_jax.errors import BadInput
from pav_jax.models.causal_conv import ConvImpl
from pav_jax.models.t5 import hf as t5_hf
from pav_jax.models.weights import logical_axes
from pav_jax.storage.json_files import write_json
from pav_jax.video import pipeline_folder, tokenization
from pav_jax.video.generation_config import GenerationConfig


class PipelineFolder(abc.ABC):
    """The components of a text-to-video model and the folder that holds them.

    Attributes:
      pipeline: `_class_name` of model_index.json.
      display_name: the family's name in errors, with its article.
      layouts: maps a component to its module that names its weights (`hf.py`).
      components: folders that a pipeline must have.
      generation: default settings.
      tokenizer: a transformers tokenizer.
    """

    pipeline: ClassVar[str]
    display_name: ClassVar[str]
    layouts: ClassVar[Mapping[str, Any]]
    components: ClassVar[Sequence[str]]
    generation: ClassVar[GenerationConfig]

    tokenizer: Any
    text_encoder: Any
    scheduler: Any

    @classmethod
    @abc.abstractmethod
    def outline(
        cls,
        folder: Path,
        dtype: Any,
        scheduler: Mapping[str, Any] | str | None = None,
        tokenizer: Any = None,
        conv_impl: ConvImpl = "auto",
    ) -> Self:
        """The family from the configurations in a folder, without weights.

        Args:
          scheduler: replaces the folder's; a class name keeps the folder's settings.
          conv_impl: how the VAE computes convolutions in time.

        Raises:
          BadInput: a component is missing or unsupported, or components do not fit each other.
        """

    @classmethod
    def scheduler_settings(
        cls, folder: Path, scheduler: Mapping[str, Any] | str | None, flow_shift: float | None
    ) -> Mapping[str, Any] | str | None:
        """What `outline` takes as `scheduler`, with another shift of the noise levels.

        Raises:
          BadInput: the family's schedulers have no such shift.
        """
        if flow_shift is not None:
            raise BadInput(
                f"flow_shift={flow_shift:g}: {cls.display_name} has no such setting; leave it out",
                source="generator",
                field="flow_shift",
            )
        return scheduler

    @classmethod
    def default_settings(cls, folder: Path) -> GenerationConfig:
        """The settings of the model in a folder, before those of its pav_generation.json."""
        return cls.generation

    @classmethod
    def component_folder(cls, folder: Path, name: str) -> Path:
        """Where in a pipeline's folder a component is."""
        return folder / name

    @classmethod
    def read_configs(cls, folder: Path) -> dict[str, Any]:
        """The configurations of the components in a folder.

        Raises:
          BadInput: a file is missing or unsupported.
        """
        return {
            name: pipeline_folder.read_config(layout, cls.component_folder(folder, name))
            for name, layout in cls.layouts.items()
        }

    @classmethod
    def load(
        cls,
        folder: Path,
        dtype: Any,
        scheduler: Mapping[str, Any] | str | None = None,
        where: Callable[[str], Callable | None] | None = None,
    ) -> tuple[Self, dict]:
        """Reads a folder.

        Args:
          dtype: of the parameters; those that a component or its table marks stay float32.
          scheduler: replaces the folder's; a class name keeps the folder's settings.
          where: maps a component to the `where` argument of `checkpoints.folder.load`; None, also
            for one component, gives numpy arrays.

        Returns:
          The family and its parameters.

        Raises:
          BadInput: a component is missing or incomplete, or components do not fit each other.
        """
        names = [cls.component_folder(folder, name).name for name in cls.components]
        pipeline_folder.check_components(folder, names, cls.display_name)
        family = cls.outline(folder, dtype, scheduler, tokenization.load_tokenizer(folder))
        params = {}
        for name, layout in cls.layouts.items():
            component_dtype = getattr(family, name).dtype
            component_where = where(name) if where else None
            path = cls.component_folder(folder, name)
            params[name] = load(layout, path, component_dtype, component_where)[1]
        return family, params

    def save(self, folder: Path, params: Mapping, max_shard_size: str) -> None:
        """Writes a folder that `load` reads, and diffusers if it has the family."""
        self.tokenizer.save_pretrained(folder / "tokenizer")
        for name, layout in self.layouts.items():
            save(layout, folder / name, getattr(self, name).config, params[name], max_shard_size)
        write_json(folder / "scheduler" / "scheduler_config.json", dict(self.scheduler.config))
        write_json(folder / "model_index.json", {"_class_name": self.pipeline} | self.index())

    def index(self) -> dict[str, Any]:
        """The fields of model_index.json, as diffusers writes them."""
        return {
            "_diffusers_version": "0.35.0",
            "scheduler": ["diffusers", self.scheduler.config["_class_name"]],
            "text_encoder": ["transformers", t5_hf.class_name(self.text_encoder.config)],
            "tokenizer": ["transformers", tokenization.tokenizer_class(self.tokenizer)],
            "transformer": ["diffusers", self.layouts["transformer"].CLASS_NAME],
            "vae": ["diffusers", self.layouts["vae"].CLASS_NAME],
        }

    def axes(self) -> dict:
        """Logical axis names of every parameter, for sharding."""
        return {
            name: logical_axes(layout.weights(getattr(self, name).config))
            for name, layout in self.layouts.items()
        }

    def param_shapes(self) -> dict:
        """The parameters that `load` gives, as ShapeDtypeStructs."""
        return {
            name: pipeline_folder.param_shapes(
                layout, getattr(self, name).config, getattr(self, name).dtype
            )
            for name, layout in self.layouts.items()
        }
