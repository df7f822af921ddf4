"""The base class of the model families: guidance and sampling.

Shapes: B videos, S text tokens, U text width; t, h, w, C frames, height, width and channels of the
latent.
"""

import abc
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key

from pav_jax.errors import BadInput
from pav_jax.models.t5 import T5Encoder
from pav_jax.parallel.sequence_attention import make_sequence_attention_fn
from pav_jax.parallel.sharding_rules import ShardingConstraint
from pav_jax.video import sampling, tokenization
from pav_jax.video.decoding import Latents, PixelsOrShapes, Run, piece_axes
from pav_jax.video.family_folder import PipelineFolder
from pav_jax.video.generation_config import GenerationConfig
from pav_jax.video.guidance import apply_guidance, stack_branches
from pav_jax.video.step_schedule import StepSchedule


def _leave_unconstrained(x: Array, axes: tuple[str | None, ...]) -> Array:
    return x


@dataclasses.dataclass(frozen=True)
class DenoiserSteps:
    """Consecutive steps of one denoiser.

    Attributes:
      denoiser: the component.
      first, stop: the first step, and the step after the last one.
    """

    denoiser: str
    first: int
    stop: int


@dataclasses.dataclass(frozen=True, eq=False)
class Family(PipelineFolder):
    """The components of a text-to-video model without their weights, and how it samples.

    `params` everywhere is {"text_encoder": ..., "transformer": ..., "vae": ...}, and the other
    `denoisers`. A subclass implements the abstract methods and sets the class attributes.

    Attributes:
      denoisers: components that denoise, each some of the steps.
      tiles: whether the VAE can decode tiles.
      latent_axes: axis order of initial noise in diffusers, or in the original code.
      piece_axis: logical name of the first axis of what the VAE decodes at once.
      constrain: shards an activation by its logical axes.
      constrain_vae: the same on the VAE's mesh.
      conditions: a dataclass of what else in the folder determines the video; None where nothing
        does.
      cfg_parallel: the two branches of guidance run on two halves of the mesh.
    """

    denoisers: ClassVar[tuple[str, ...]] = ("transformer",)
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

    def with_denoiser(self, name: str) -> Self:
        """The same family with one of its `denoisers` as `transformer`."""
        return self

    def denoiser_steps(self, num_steps: int) -> list[DenoiserSteps]:
        """Which denoiser works in which of the steps, in order."""
        return [DenoiserSteps("transformer", 0, num_steps)]

    @classmethod
    def check_settings(cls, settings: GenerationConfig) -> None:
        """Raises BadInput for settings that the family does not have."""
        if settings.guidance_scale_2 is not None:
            raise BadInput(
                f"guidance_scale_2={settings.guidance_scale_2:g}: this model has no second expert;"
                f" leave it out: guidance_scale={settings.guidance_scale:g} holds in all steps",
                source="generator",
                field="guidance_scale_2",
            )

    def guidance_scales(self, settings: GenerationConfig) -> Float[np.ndarray, "steps"]:
        """The guidance scale of each step."""
        return sampling.guidance_scales(
            self.scheduler.timesteps(settings.num_inference_steps),
            settings.guidance_scale,
            settings.use_dynamic_cfg,
        )

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
        """Noise to clean latents: one scan for the steps of each denoiser, or one for each segment
        of the `step_schedule`."""
        steps = self.denoiser_steps(scales.shape[0])
        carry = self.start(latents, scales)
        for part in steps:
            carry = self.denoise_part(
                params, carry, text, negative, keys_B, scales, step_schedule, part
            )
        return carry[1]

    def start(
        self, latents: Float[Array, "B t h w C"], scales: Float[Array, "steps"]
    ) -> tuple[Any, Array]:
        """The scheduler's state before the first step, and the latents."""
        return self.plan(scales.shape[0], latents).start(latents), latents

    def denoise_part(
        self,
        params: Mapping,
        carry: tuple[Any, Array],
        text: Float[Array, "B ..."],
        negative: Float[Array, "B ..."] | None,
        keys_B: Key[Array, "B"],
        scales: Float[Array, "steps"],
        step_schedule: StepSchedule | None,
        part: DenoiserSteps,
    ) -> tuple[Any, Array]:
        """The steps of one denoiser: (scheduler's state, latents) before and after them.

        Args:
          params: those of this denoiser are read.
        """
        plan = self.plan(scales.shape[0], carry[1])
        family = self.with_denoiser(part.denoiser)
        denoiser_params = {"transformer": params[part.denoiser]}

        def predict(sample: Array, index: Array, guidance: bool = True, **stack: Any) -> Any:
            timestep = jnp.asarray(plan.timesteps, jnp.float32)[index]
            return family.predict(
                denoiser_params,
                sample,
                text,
                negative if guidance else None,
                timestep,
                scales[index],
                **stack,
            )

        step = sampling.stepper(plan, keys_B, self.scheduler.needs_noise)
        steps = (part.first, part.stop)
        if step_schedule is None:
            return sampling.denoise(step, predict, carry, steps)
        guided = negative is not None
        return step_schedule.denoise(step, predict, carry, steps, guided, self.cfg_parallel)
