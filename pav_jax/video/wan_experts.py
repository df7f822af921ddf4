"""Wan 2.2 A14B: two denoisers, one for noisy timesteps and one for the others.

Source: diffusers' `WanPipeline` with `boundary_ratio`; the published Wan 2.2.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from pav_jax.errors import BadInput
from pav_jax.models.causal_conv import ConvImpl
from pav_jax.models.wan import transformer_hf
from pav_jax.models.wan.transformer import WanTransformer
from pav_jax.video import pipeline_folder
from pav_jax.video.family import DenoiserSteps, Family
from pav_jax.video.generation_config import GenerationConfig
from pav_jax.video.schedulers.flow_euler import FlowEuler
from pav_jax.video.schedulers.unipc import UniPC
from pav_jax.video.wan import Wan
from pav_jax.video.wan_folder import EXPERTS, WanIndex


@dataclasses.dataclass(frozen=True)
class Boundary:
    """Where the second expert takes over.

    Attributes:
      boundary_ratio: the first one denoises timesteps of at least this fraction of the training
        timesteps.
    """

    boundary_ratio: float


@dataclasses.dataclass(frozen=True, eq=False)
class WanExperts(Wan):
    """The family of Wan pipelines with two experts.

    Attributes:
      transformer: for high noise.
      transformer_2: for low noise.
      conditions: a `Boundary`.
    """

    transformer_2: WanTransformer | None = None

    layouts = {**Wan.layouts, "transformer_2": transformer_hf}
    components = ("tokenizer", *layouts, "scheduler")
    denoisers = EXPERTS

    @classmethod
    def outline(
        cls,
        folder: Path,
        dtype: Any,
        scheduler: Mapping[str, Any] | str | None = None,
        tokenizer: Any = None,
        conv_impl: ConvImpl = "auto",
    ) -> Self:
        """See `Wan`."""
        family = super().outline(folder, dtype, scheduler, tokenizer, conv_impl)
        config = pipeline_folder.read_config(transformer_hf, folder / "transformer_2")
        boundary_ratio = WanIndex.read(folder).boundary_ratio
        assert boundary_ratio is not None, "see WanIndex.experts"
        family = dataclasses.replace(
            family,
            transformer_2=WanTransformer(config, dtype),
            conditions=Boundary(boundary_ratio),
        )
        family.check_experts(str(folder))
        return family

    def check_experts(self, source: str) -> None:
        """Raises BadInput if the experts do not denoise the same latents with the same texts."""
        assert self.transformer_2 is not None
        first = self.transformer.config
        second = self.transformer_2.config
        for name in ("patch_size", "in_channels", "out_channels", "text_dim"):
            if getattr(first, name) != getattr(second, name):
                raise BadInput(
                    f"{source}: {name} is {getattr(first, name)} in transformer, and"
                    f" {getattr(second, name)} in transformer_2; these parts do not belong"
                    " together",
                    source=source,
                    field=name,
                )

    def index(self) -> dict[str, Any]:
        """See `Family`."""
        return super().index() | {
            "transformer_2": ["diffusers", transformer_hf.CLASS_NAME],
            **dataclasses.asdict(self.conditions),
        }

    def on_mesh(
        self,
        mesh: Mesh | None,
        auxiliary_mesh: Mesh | None,
        sequence_attention: str = "auto",
        cfg_parallel: bool = False,
    ) -> "WanExperts":
        """See `Family`."""
        arguments = (mesh, auxiliary_mesh, sequence_attention, cfg_parallel)
        family = super().on_mesh(*arguments)
        second = super(WanExperts, self.with_denoiser("transformer_2")).on_mesh(*arguments)
        return dataclasses.replace(family, transformer_2=second.transformer)

    def with_denoiser(self, name: str) -> "WanExperts":
        """See `Family`."""
        return dataclasses.replace(self, transformer=getattr(self, name))

    def denoiser_steps(self, num_steps: int) -> list[DenoiserSteps]:
        """See `Family`; an expert without steps is left out."""
        timesteps = self.scheduler.timesteps(num_steps)
        assert isinstance(self.scheduler, FlowEuler | UniPC), "see Wan.scheduler_settings"
        boundary = self.conditions.boundary_ratio * self.scheduler.total
        switch = int(np.sum(timesteps >= boundary))  # timesteps fall
        parts = (
            DenoiserSteps(EXPERTS[0], 0, switch),
            DenoiserSteps(EXPERTS[1], switch, num_steps),
        )
        return [part for part in parts if part.first < part.stop]

    @classmethod
    def check_settings(cls, settings: GenerationConfig) -> None:
        """See `Family`; every setting is allowed."""

    def guidance_scales(self, settings: GenerationConfig) -> Float[np.ndarray, "steps"]:
        """See `Family`; `guidance_scale_2` is that of the second expert. Whether there is guidance
        at all depends on `guidance_scale`, as in diffusers."""
        scales = super().guidance_scales(settings).copy()
        if settings.guidance_scale_2 is not None:
            for part in self.denoiser_steps(settings.num_inference_steps):
                if part.denoiser == EXPERTS[1]:
                    scales[part.first : part.stop] = settings.guidance_scale_2
        return scales


def wan_class(folder: Path) -> type[Family]:
    """`Wan` or `WanExperts`, by the experts in a folder.

    Raises:
      BadInput: see `WanIndex.experts`.
    """
    return WanExperts if len(WanIndex.read(folder).experts()) == 2 else Wan
