"""Rectified flow as Open-Sora 1.2 samples it: straight lines from noise to video, walked by Euler
steps.

Sources: Liu et al. 2022 (arXiv 2209.03003); timesteps shifted towards noise for larger pictures,
Esser et al. 2024 (arXiv 2403.03206), section 5.3.2, and for longer videos, hpcaitech/Open-Sora, tag
v1.2.0, `opensora/schedulers/rf/rectified_flow.py`. With t from 1 (noise) to 0 (video), r the root
of the video's size over that of a picture of 512 x 512, sizes being pixels times latent frames:
    t' = r t / (1 + (r - 1) t),    next = sample + velocity * (t' - next t')
The velocity points from noise to video.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pav_jax.errors import BadInput
from pav_jax.typed_fields import read_fields
from pav_jax.video.schedulers import flow

CLASS_NAME = "RFLOW"
BASE_PIXELS = 512 * 512


@dataclasses.dataclass(frozen=True)
class RectifiedFlow:
    """See `pav_jax.video.schedulers` for what a scheduler and its plan offer; its plans also need
    the video's size."""

    num_timesteps: flow.TrainTimesteps = 1000
    use_discrete_timesteps: bool = False
    use_timestep_transform: bool = True
    needs_noise = False

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], source: str = "scheduler_config.json"
    ) -> "RectifiedFlow":
        """Reads the original's fields; what it does not name is as published.

        Raises:
          BadInput: another scheduler.
        """
        if (name := config.get("_class_name", CLASS_NAME)) != CLASS_NAME:
            raise BadInput(
                f"{source}: _class_name is {name!r}; Open-Sora samples with {CLASS_NAME!r} only"
            )
        return read_fields(cls, config, source)

    @property
    def config(self) -> dict[str, Any]:
        """The fields of scheduler_config.json."""
        return {"_class_name": CLASS_NAME, **dataclasses.asdict(self)}

    def timesteps(self, steps: int) -> Float[np.ndarray, "steps"]:
        """Evenly spaced from `num_timesteps` down, noisiest first, before the transform."""
        if steps < 1:
            raise BadInput(f"num_inference_steps={steps}: it must be at least 1")
        times = (1 - np.arange(steps) / steps) * self.num_timesteps
        return np.round(times) if self.use_discrete_timesteps else times

    def plan(
        self, steps: int, pixels: int = BASE_PIXELS, latent_frames: int = 1
    ) -> "RectifiedFlowPlan":
        """
        Args:
          pixels: height times width of the video.
          latent_frames: of the video; 1 for a picture.
        """
        times = self.timesteps(steps) / self.num_timesteps
        if self.use_timestep_transform:
            times = flow.shifted(times, (pixels / BASE_PIXELS * latent_frames) ** 0.5)
        steps_down = times - np.append(times[1:], 0.0)
        return RectifiedFlowPlan(
            (times * self.num_timesteps).astype(np.float32), steps_down.astype(np.float32)
        )


@dataclasses.dataclass(frozen=True)
class RectifiedFlowPlan:
    """The coefficients of a run of `RectifiedFlow`, one row per step."""

    timesteps: Float[np.ndarray, "steps"]  # as the model is told them
    lengths: Float[np.ndarray, "steps"]  # of each step, as a share of the way

    def start(self, sample: Array) -> tuple[()]:
        """The initial state of a sampling run."""
        return ()

    def step(
        self,
        state: tuple[()],
        output: Float[Array, "..."],
        index: Int[Array, ""],
        sample: Float[Array, "..."],
        noise: Float[Array, "..."] | None = None,
    ) -> tuple[tuple[()], Float[Array, "..."]]:
        """One step: (next state, next sample), from the model's output at step `index`."""
        return state, sample + jnp.asarray(self.lengths)[index] * output
