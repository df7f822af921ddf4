"""What the families of models do alike: how their folders are read and written, and how they are
guided and sampled.

Shapes: B videos, S text tokens, U text width; t, h, w, C frames, height, width and channels of the
latent.
"""

import abc
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key

from pav_jax.checkpoints.folder import load, save
from pav_jax.models.t5 import T5Encoder
from pav_jax.models.t5 import hf as t5_hf
from pav_jax.models.weights import logical_axes
from pav_jax.parallel.sequence_attention import make_sequence_attention_fn
from pav_jax.parallel.sharding_rules import ShardingConstraint
from pav_jax.storage.json_files import write_json
from pav_jax.video import pipeline_folder, sampling
from pav_jax.video.generation_config import GenerationConfig
from pav_jax.video.programs import guided, split_guidance
from pav_jax.video.step_schedule import StepSchedule


@dataclasses.dataclass(frozen=True, eq=False)
class Family:
    """The parts without their weights. `params` everywhere is {"text_encoder": ..., "transformer":
    ..., "vae": ...}.

    A family adds `outline` (the model without its weights), `default_size`, `latent_shape`,
    `text_tokens`, `encode_text`, `decode`, the class attributes below, what it does in a way of its
    own, and, where there are any, `conditions` (what else the model is told).
    """

    pipeline: ClassVar[str]  # `_class_name` of model_index.json
    called: ClassVar[str]  # in errors, with its article
    layouts: ClassVar[Mapping[str, Any]]  # name of a part -> its `hf.py`
    components: ClassVar[Sequence[str]]  # folders that must be there
    generation: ClassVar[GenerationConfig]  # what `generate` uses unless told otherwise
    tiles: ClassVar[bool]  # whether the VAE can decode them
    latent_axes: ClassVar[Sequence[str]]  # of initial noise in diffusers, or the original

    tokenizer: Any  # a transformers tokenizer
    text_encoder: T5Encoder
    transformer: Any
    vae: Any
    scheduler: Any
    constrain: Callable[[Array, tuple[str | None, ...]], Array] = lambda x, axes: (
        x
    )  # keeps x where its logical axes belong
    conditions: Any = None  # a dataclass: what else the model is told
    halves: bool = False  # the two branches of guidance lie on two halves of the mesh

    def on_mesh(
        self,
        mesh: Mesh | None,
        side: Mesh | None,
        sequence_attention: str = "auto",
        halves: bool = False,
    ) -> Self:
        """The same family with what the mesh needs: attention over spread tokens, places of
        activations.

        Args:
          side: the mesh of the VAE.
          sequence_attention, halves: see `VideoModel`.
        """
        transformer, constrain = (
            self.transformer.clone(
                attention_fn=make_sequence_attention_fn(mesh, sequence_attention)
            ),
            self.constrain,
        )
        if mesh is not None:
            constrain = ShardingConstraint(mesh)
            transformer = transformer.clone(
                constrain=constrain, token_multiple=mesh.shape["sequence"]
            )
        return dataclasses.replace(
            self, transformer=transformer, constrain=constrain, halves=halves
        )

    # -------------------------------------------------------------------------------------- folders

    @classmethod
    def load(
        cls,
        folder: Path,
        dtype: Any,
        scheduler: Mapping[str, Any] | str | None = None,
        where: Callable[[str], Callable] | None = None,
    ) -> tuple[Self, dict]:
        """Reads a folder; parameters are of type `dtype`, but float32 where a part or its table
        says so; numpy arrays unless `where` is given.

        Args:
          scheduler: replaces the folder's; a class name keeps the folder's settings.
          where: name of a part -> `where` of `checkpoints.folder.load`.

        Raises:
          BadInput: a part is missing or half-written, or the parts do not fit each other.
        """
        pipeline_folder.check_components(folder, cls.components, cls.called)
        family = cls.outline(folder, dtype, scheduler, pipeline_folder.load_tokenizer(folder))
        place = where or (lambda name: None)
        return family, {
            name: load(layout, folder / name, getattr(family, name).dtype, place(name))[1]
            for name, layout in cls.layouts.items()
        }

    def save(self, folder: Path, params: Mapping, max_shard_size: str) -> None:
        """Writes a folder that `load` reads, and diffusers where it knows the family."""
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
            "tokenizer": ["transformers", pipeline_folder.tokenizer_class(self.tokenizer)],
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
            name: pipeline_folder.shapes_of(
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
        return pipeline_folder.tokenize(
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
          residual, keep_residual: the transformer's own; there are rows of it for each branch of
            guidance.
        """
        if negative_BxSxU is not None:
            latents, text_BxSxU = split_guidance(
                self.constrain, self.halves, (latents, negative_BxSxU), (latents, text_BxSxU)
            )
        output = self.transformer.apply(
            {"params": params["transformer"]},
            latents,
            text_BxSxU,
            jnp.full(latents.shape[:1], timestep),
            residual=residual,
            keep_residual=keep_residual,
        )
        return self.one_output(output, scale, negative_BxSxU is not None)

    def one_output(
        self,
        output: Array | tuple[Array, Array],
        scale: Array,
        both: bool,
        channels: int | None = None,
    ) -> Array | tuple[Array, Array]:
        """What the transformer gave, float32 and guided where `both` branches ran; a residual
        beside it stays."""
        output, *residual = output if isinstance(output, tuple) else (output,)
        output = output[..., :channels].astype(jnp.float32)
        output = guided(output, scale, self.halves) if both else output
        return (output, *residual) if residual else output

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
        """Noise to clean latents in one scan; with `step_schedule` in one for each part that they cut
        it into."""
        plan = self.plan(scales.shape[0], latents)

        def predict(sample, index, guidance=True, **stack):
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
            self.halves,
        )
