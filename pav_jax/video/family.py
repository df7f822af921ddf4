"""The base class of the model families: reading and writing folders, guidance and sampling.

Shapes: B videos, S text tokens, U text width; t, h, w, C frames, height, width and channels of the
latent.
"""

import abc
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key

from pav_jax.checkpoints.folder import load, save
from pav_jax.errors import BadInput
from pav_jax.models.causal_conv import ConvImpl
from pav_jax.models.t5 import T5Encoder
from pav_jax.models.t5 import hf as t5_hf
from pav_jax.models.weights import logical_axes
from pav_jax.parallel.sequence_attention import make_sequence_attention_fn
from pav_jax.parallel.sharding_rules import ShardingConstraint
from pav_jax.storage.json_files import write_json
from pav_jax.video import pipeline_folder, sampling, tokenization
from pav_jax.video.decoding import Latents, PixelsOrShapes, Run, piece_axes
from pav_jax.video.generation_config import GenerationConfig
from pav_jax.video.guidance import apply_guidance, stack_branches
from pav_jax.video.step_schedule import StepSchedule


def _leave_unconstrained(x: Array, axes: tuple[str | None, ...]) -> Array:
    return x


@dataclasses.dataclass(frozen=True, eq=False)
class Family(abc.ABC):
    """The components of a text-to-video model without their weights, and how it samples.

    `params` everywhere is {"text_encoder": ..., "transformer": ..., "vae": ...}. A subclass
    implements the abstract methods and sets the class attributes.

    Attributes:
      pipeline: `_class_name` of model_index.json.
      display_name: the family's name in errors, with its article.
      layouts: maps a component to its module that names its weights (`hf.py`).
      components: folders that a pipeline must have.
      generation: default settings.
      tiles: whether the VAE can decode tiles.
      latent_axes: axis order of initial noise in diffusers, or in the original code.
      tokenizer: a transformers tokenizer.
      piece_axis: logical name of the first axis of what the VAE decodes at once.
      constrain: shards an activation by its logical axes.
      constrain_vae: the same on the VAE's mesh.
      conditions: a dataclass of further conditions on the video; None where there are none.
      cfg_parallel: the two branches of guidance run on two halves of the mesh.
    """

    pipeline: ClassVar[str]
    display_name: ClassVar[str]
    layouts: ClassVar[Mapping[str, Any]]
    components: ClassVar[Sequence[str]]
    generation: ClassVar[GenerationConfig]
    tiles: ClassVar[bool]
    latent_axes: ClassVar[tuple[str, ...]]
    piece_axis: ClassVar[str] = "batch"

    tokenizer: Any
    text_encoder: T5Encoder
    transformer: Any
    vae: Any
    scheduler: Any
    constrain: Callable[[Array, tuple[str | None, ...]], Array] = _leave_unconstrained
    constrain_vae: Callable[[Array, tuple[str | None, ...]], Array] = _leave_unconstrained
    conditions: Any = None
    cfg_parallel: bool = False

    def trained_frames(self) -> int | None:
        """The one number of frames that the model was trained on; None: several, or unknown."""
        return None

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

    @abc.abstractmethod
    def default_size(self) -> tuple[int, int, int]:
        """Frames, height and width in pixels of the videos the model was trained on."""

    @abc.abstractmethod
    def latent_shape(
        self, frames: int, height: int, width: int
    ) -> tuple[tuple[int, int, int, int], int]:
        """[t, h, w, C] of the latent of such a video, and how many of its last frames are decoded.

        Raises:
          BadInput: the model has no such size; the message names the nearest ones.
        """

    @abc.abstractmethod
    def encode_text(self, params: Mapping, ids_BxS: Int[Array, "B S"]) -> Float[Array, "B ..."]:
        """The embeddings of token ids."""

    @abc.abstractmethod
    def decode(self, params: Mapping, latents: Latents, tiled: bool, run: Run) -> PixelsOrShapes:
        """Clean latents to frames, and which videos have neither NaN nor infinity.

        Args:
          run: runs each function of a piece of the videos as a program of its own.
        """

    def constrain_piece(self, arrays: Any) -> Any:
        """The arrays of a piece of the videos, sharded over the VAE's mesh."""
        return jax.tree.map(
            lambda x: self.constrain_vae(x, piece_axes(x.ndim, self.piece_axis)), arrays
        )

    def on_mesh(
        self,
        mesh: Mesh | None,
        auxiliary_mesh: Mesh | None,
        sequence_attention: str = "auto",
        cfg_parallel: bool = False,
    ) -> Self:
        """The same family for a mesh: attention over sharded tokens, sharded activations.

        Args:
          auxiliary_mesh: the mesh of text encoder and VAE.
          sequence_attention, cfg_parallel: see `VideoModel` and `GenerationConfig`.
        """
        attention_fn = make_sequence_attention_fn(mesh, sequence_attention)
        transformer = self.transformer.clone(attention_fn=attention_fn)
        constrain = self.constrain
        if mesh is not None:
            constrain = ShardingConstraint(mesh)
            transformer = transformer.clone(
                constrain=constrain, token_multiple=mesh.shape["sequence"]
            )
        family = dataclasses.replace(
            self, transformer=transformer, constrain=constrain, cfg_parallel=cfg_parallel
        )
        return family.with_vae_mesh(auxiliary_mesh)

    def with_vae_mesh(self, mesh: Mesh | None) -> Self:
        """The same family, whose VAE decodes on a mesh."""
        if mesh is None:
            return self
        return dataclasses.replace(self, constrain_vae=ShardingConstraint(mesh))

    # -------------------------------------------------------------------------------------- folders

    @classmethod
    def read_configs(cls, folder: Path) -> tuple[Any, ...]:
        """The configurations of the components in a folder, in the order of `layouts`.

        Raises:
          BadInput: a file is missing or unsupported.
        """
        return tuple(
            pipeline_folder.read_config(layout, folder / name)
            for name, layout in cls.layouts.items()
        )

    @classmethod
    def load(
        cls,
        folder: Path,
        dtype: Any,
        scheduler: Mapping[str, Any] | str | None = None,
        where: Callable[[str], Callable] | None = None,
    ) -> tuple[Self, dict]:
        """Reads a folder.

        Args:
          dtype: of the parameters; those that a component or its table marks stay float32.
          scheduler: replaces the folder's; a class name keeps the folder's settings.
          where: maps a component to the `where` argument of `checkpoints.folder.load`; None gives
            numpy arrays.

        Returns:
          The family and its parameters.

        Raises:
          BadInput: a component is missing or incomplete, or components do not fit each other.
        """
        pipeline_folder.check_components(folder, cls.components, cls.display_name)
        family = cls.outline(folder, dtype, scheduler, tokenization.load_tokenizer(folder))
        params = {}
        for name, layout in cls.layouts.items():
            component_dtype = getattr(family, name).dtype
            component_where = where(name) if where else None
            params[name] = load(layout, folder / name, component_dtype, component_where)[1]
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

    # ------------------------------------------------------------------------------------- sampling

    @abc.abstractmethod
    def sequence_length(self, max_sequence_length: int | None) -> int:
        """How many text tokens the text encoder reads.

        Args:
          max_sequence_length: of `GenerationConfig`; None: the family's own.

        Raises:
          BadInput: the family cannot read as many.
        """

    def tokenize(
        self, prompts: Sequence[str], length: int
    ) -> tuple[Int[np.ndarray, "B S"], list[int]]:
        """Token ids, padded to `length`, and the indices of prompts that were truncated to it."""
        return tokenization.tokenize(
            self.tokenizer, prompts, length, self.text_encoder.config.vocab_size
        )

    def predict(
        self,
        params: Mapping,
        latents,
        text_BxSxU,
        negative_BxSxU,
        timestep,
        scale,
        residual=None,
        keep_residual: bool = False,
    ) -> Array | tuple[Array, Array]:
        """One guided model output, float32. Without `negative_BxSxU` there is no guidance and half
        the work.

        Args:
          residual, keep_residual: of the transformer; a residual has rows for each branch.
        """
        if negative_BxSxU is not None:
            latents, text_BxSxU = stack_branches(
                self.constrain, self.cfg_parallel, (latents, negative_BxSxU), (latents, text_BxSxU)
            )
        output = self.transformer.apply(
            {"params": params["transformer"]},
            latents,
            text_BxSxU,
            jnp.full(latents.shape[:1], timestep),
            residual=residual,
            keep_residual=keep_residual,
        )
        return self.guide_output(output, scale, negative_BxSxU is not None)

    def guide_output(
        self,
        output: Array | tuple[Array, Array],
        scale: Array,
        guided: bool,
        channels: int | None = None,
    ) -> Array | tuple[Array, Array]:
        """The transformer's output in float32, guided if both branches ran.

        Args:
          output: the transformer's output, or (output, residual); a residual is returned as it is.
          channels: how many of the first channels to keep; None: all.
        """
        prediction = output[0] if isinstance(output, tuple) else output
        prediction = prediction[..., :channels].astype(jnp.float32)
        if guided:
            prediction = apply_guidance(prediction, scale, self.cfg_parallel)
        return (prediction, output[1]) if isinstance(output, tuple) else prediction

    def video_tokens(
        self, residual: Array, latents: Float[Array, "B t h w C"], num_text_tokens: int
    ) -> Array:
        """The part of a transformer's residual that belongs to the video: not text, not padding."""
        return residual[:, : math.prod(self.transformer.config.grid(latents.shape[1:4]))]

    def plan(self, steps: int, latents: Float[Array, "B t h w C"]) -> Any:
        """The scheduler's plan for such latents."""
        return self.scheduler.plan(steps)

    def denoise(
        self,
        params: Mapping,
        latents: Float[Array, "B t h w C"],
        text: Float[Array, "B ..."],
        negative: Float[Array, "B ..."] | None,
        keys_B: Key[Array, "B"],
        scales: Float[Array, "steps"],
        step_schedule: StepSchedule | None = None,
    ) -> Float[Array, "B t h w C"]:
        """Noise to clean latents, in one scan, or one per segment of the `step_schedule`."""
        plan = self.plan(scales.shape[0], latents)

        def predict(sample: Array, index: Array, guidance: bool = True, **stack: Any) -> Any:
            timestep = jnp.asarray(plan.timesteps, jnp.float32)[index]
            return self.predict(
                params,
                sample,
                text,
                negative if guidance else None,
                timestep,
                scales[index],
                **stack,
            )

        if step_schedule is None:
            return sampling.denoise(plan, predict, latents, keys_B, self.scheduler.needs_noise)
        return step_schedule.denoise(
            plan,
            predict,
            latents,
            keys_B,
            self.scheduler.needs_noise,
            negative is not None,
            self.cfg_parallel,
        )
