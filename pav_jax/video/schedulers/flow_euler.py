"""Euler steps along the flow (`FlowMatchEulerDiscreteScheduler`), and its stochastic variant.

Source: Esser et al. 2024 (arXiv 2403.03206). With sigma and sigma' the levels before and after a
step,
    next = sample + (sigma' - sigma) * output,
or, stochastic, next = (1 - sigma') * x0 + sigma' * noise, x0 = sample - sigma * output.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pav_jax.models import fields
from pav_jax.typed_fields import Positive, read_fields
from pav_jax.video.schedulers import flow

# choices of diffusers' class that this one has in one value only
FIXED = {
    "use_dynamic_shifting": False,
    "invert_sigmas": False,
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
}


@dataclasses.dataclass(frozen=True)
class FlowEulerFields:
    """The fields of scheduler_config.json that are read, with diffusers' defaults."""

    num_train_timesteps: flow.TrainTimesteps = 1000
    shift: Positive = 1.0
    shift_terminal: flow.Terminal | None = None
    stochastic_sampling: bool = False


@dataclasses.dataclass(frozen=True)
class FlowEuler:
    """See `pav_jax.video.schedulers` for what a scheduler and its plan offer."""

    total: int  # training timesteps
    shift: float
    shift_terminal: float | None
    needs_noise: bool
    config: Mapping[str, Any]

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], source: str = "scheduler_config.json"
    ) -> "FlowEuler":
        """Reads diffusers' fields, with its defaults.

        Raises:
          BadInput: a choice that is not supported, or a number out of range.
        """
        fields.check_fixed(config, FIXED, source)
        values = read_fields(FlowEulerFields, config, source)
        return cls(
            values.num_train_timesteps,
            values.shift,
            values.shift_terminal,
            values.stochastic_sampling,
            dict(config),
        )

    def sigmas(self, steps: int) -> Float[np.ndarray, "levels"]:
        """Levels before each step and after the last. diffusers spaces the shifted levels and
        shifts them again; so do we."""
        flow.check_steps(steps, self.total)
        ends = flow.shifted(
            np.asarray([self.total, 1], np.float32) / np.float32(self.total), np.float32(self.shift)
        )
        spaced = (
            np.linspace(float(ends[0]) * self.total, float(ends[1]) * self.total, steps)
            / self.total
        )
        levels = flow.stretched(flow.shifted(spaced, self.shift), self.shift_terminal)
        return np.append(levels, 0.0).astype(np.float32)

    def timesteps(self, steps: int) -> Float[np.ndarray, "steps"]:
        """The timesteps of a run, from noise to video."""
        return self.sigmas(steps)[:-1] * np.float32(self.total)

    def plan(self, steps: int) -> "FlowEulerPlan":
        """The coefficients of a run of `steps` steps."""
        return FlowEulerPlan(self.timesteps(steps), self.sigmas(steps), self.needs_noise)


@dataclasses.dataclass(frozen=True)
class FlowEulerPlan:
    """The coefficients of a run of `FlowEuler`, one row per step."""

    timesteps: Float[np.ndarray, "steps"]
    sigmas: Float[np.ndarray, "levels"]
    stochastic: bool

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
        now = jnp.asarray(self.sigmas)[index]
        after = jnp.asarray(self.sigmas)[index + 1]
        if self.stochastic:
            assert noise is not None, "a stochastic plan needs noise"
            return state, (1 - after) * (sample - now * output) + after * noise
        return state, sample + (after - now) * output
