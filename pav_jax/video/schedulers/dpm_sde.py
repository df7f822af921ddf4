"""DPM-Solver++(2M), the SDE variant, as CogVideoX uses it (`CogVideoXDPMScheduler`).

Source: Lu et al. 2022 (arXiv 2211.01095), the SDE solvers. With lambda the log of the ratio of
signal to noise amplitude, h its growth over the step, a and a' the signal levels before and after
it, x0 the denoised sample:
    next = sqrt((1 - a') / (1 - a)) exp(-h) * sample - sqrt(a') expm1(-2h) * d + sqrt((1 - a') (1 -
    exp(-2h))) * noise
where d is x0 itself in the first and the last step, and otherwise x0 + (x0 - previous x0) / (2 r),
r = h_previous / h. The SDE takes its noise from the caller, one draw per step.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pav_jax.video.schedulers.schedule import NoiseSchedule


@dataclasses.dataclass(frozen=True)
class DPMSolverSDE:
    """See `pav_jax.video.schedulers` for what a scheduler and its plan offer."""

    schedule: NoiseSchedule
    config: Mapping[str, Any]
    needs_noise = True

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], source: str = "scheduler_config.json"
    ) -> "DPMSolverSDE":
        """The scheduler that scheduler_config.json describes."""
        return cls(NoiseSchedule.from_config(config, source), dict(config))

    def timesteps(self, steps: int) -> Int[np.ndarray, "steps"]:
        """The timesteps of a run, from noise to video."""
        return self.schedule.timesteps(steps)

    def plan(self, steps: int) -> "DPMSolverSDEPlan":
        """The coefficients of a run of `steps` steps."""
        now, after, last = self.schedule.levels(steps)
        with np.errstate(
            divide="ignore"
        ):  # no signal or no noise at the ends: lambda is -inf or inf, and h inf
            lam, lam_after = (np.log(np.sqrt(a / (1 - a))) for a in (now, after))
        h = lam_after - lam
        with np.errstate(divide="ignore", invalid="ignore"):
            # h_previous runs between visited timesteps, h to the level diffusers takes as the next
            # one
            ratio = np.diff(lam, prepend=np.nan).astype(h.dtype) / h
            bend = 1 / (2 * ratio)
        bend[0] = 0.0
        bend[last] = 0.0
        keep = np.sqrt((1 - after) / (1 - now)) * np.exp(-h)
        take = -np.sqrt(after) * np.expm1(-2 * h)
        stir = np.sqrt(1 - after) * np.sqrt(1 - np.exp(-2 * h))
        columns = (*self.schedule.denoised_weights(now), keep, take, stir, bend)
        return DPMSolverSDEPlan(
            self.schedule.timesteps(steps), np.stack(columns, axis=1).astype(np.float32)
        )


@dataclasses.dataclass(frozen=True)
class DPMSolverSDEPlan:
    """The coefficients of a run of `DPMSolverSDE`, one row per step."""

    timesteps: Int[np.ndarray, "steps"]
    # denoised: of sample, of output; result: of sample, of denoised, of noise; weight of the change
    # of the denoised
    weights: Float[np.ndarray, "steps 6"]

    def start(self, sample: Array) -> Array:
        """The initial state of a sampling run."""
        return jnp.zeros(sample.shape, jnp.float32)

    def step(
        self,
        state: Float[Array, "..."],
        output: Float[Array, "..."],
        index: Int[Array, ""],
        sample: Float[Array, "..."],
        noise: Float[Array, "..."],
    ) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        """One step: (next state, next sample), from the model's output at step `index`."""
        p, q, keep, take, stir, bend = jnp.asarray(self.weights)[index]
        denoised = p * sample + q * output
        ahead = denoised + bend * (denoised - state)
        return denoised, keep * sample + take * ahead + stir * noise
