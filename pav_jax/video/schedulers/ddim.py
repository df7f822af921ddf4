"""Deterministic DDIM as CogVideoX uses it (`CogVideoXDDIMScheduler`).

Source: Song et al. 2020 (arXiv 2010.02502), equation 12.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pav_jax.video.schedulers.schedule import NoiseSchedule


@dataclasses.dataclass(frozen=True)
class DDIM:
    """See `pav_jax.video.schedulers` for what a scheduler and its plan offer."""

    schedule: NoiseSchedule
    config: Mapping[str, Any]
    needs_noise = False

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], source: str = "scheduler_config.json"
    ) -> "DDIM":
        """The scheduler that scheduler_config.json describes."""
        return cls(NoiseSchedule.from_config(config, source), dict(config))

    def timesteps(self, steps: int) -> Int[np.ndarray, "steps"]:
        """The timesteps of a run, from noise to video."""
        return self.schedule.timesteps(steps)

    def plan(self, steps: int) -> "DDIMPlan":
        """The coefficients of a run of `steps` steps."""
        now, after, _ = self.schedule.levels(steps)
        denoised = self.schedule.denoised_weights(now)
        keep = np.sqrt((1 - after) / (1 - now))
        columns = (*denoised, keep, np.sqrt(after) - np.sqrt(now) * keep)
        return DDIMPlan(
            self.schedule.timesteps(steps), np.stack(columns, axis=1).astype(np.float32)
        )


@dataclasses.dataclass(frozen=True)
class DDIMPlan:
    """The coefficients of a run of `DDIM`, one row per step."""

    timesteps: Int[np.ndarray, "steps"]
    weights: Float[
        np.ndarray, "steps 4"
    ]  # denoised: of sample, of output; result: of sample, of denoised

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
        p, q, keep, take = jnp.asarray(self.weights)[index]
        denoised = p * sample + q * output
        return state, keep * sample + take * denoised
