"""Samplers as pure functions, for `lax.scan`.

A scheduler is read from diffusers' scheduler_config.json (`load`) and offers
  `timesteps(steps)`            training timesteps visited, [steps], noisiest first;
  `schedule`                    `.add_noise`, `.velocity` and `.alphas`, for training (CogVideoX's
  only); `needs_noise`                 whether its steps use the noise they are given;
  `plan(steps)`                 everything that depends on the number of steps, with
    `plan.timesteps`, `plan.start(sample) -> state` and
    `plan.step(state, output, index, sample, noise) -> (state, sample)`: one step, `index` counting
    from 0. All float32.
"""

from collections.abc import Mapping
from typing import Any

from pav_jax.errors import BadInput
from pav_jax.video.schedulers.ddim import DDIM
from pav_jax.video.schedulers.dpm_sde import DPMSolverSDE
from pav_jax.video.schedulers.flow_euler import FlowEuler
from pav_jax.video.schedulers.schedule import NoiseSchedule
from pav_jax.video.schedulers.unipc import UniPC

SCHEDULERS = {
    "CogVideoXDDIMScheduler": DDIM,
    "CogVideoXDPMScheduler": DPMSolverSDE,
    "FlowMatchEulerDiscreteScheduler": FlowEuler,
    "UniPCMultistepScheduler": UniPC,
}

Scheduler = DDIM | DPMSolverSDE | FlowEuler | UniPC


def load(config: Mapping[str, Any], source: str = "scheduler_config.json") -> Scheduler:
    """The scheduler that diffusers' configuration names in `_class_name`.

    Raises:
      BadInput: no such scheduler here, or a choice it does not know.
    """
    name = config.get("_class_name")
    if name not in SCHEDULERS:
        raise BadInput(
            f"{source}: _class_name is {name!r}; supported: {', '.join(sorted(SCHEDULERS))}"
        )
    return SCHEDULERS[name].from_config(config, source)


__all__ = [
    "DDIM",
    "SCHEDULERS",
    "DPMSolverSDE",
    "FlowEuler",
    "NoiseSchedule",
    "Scheduler",
    "UniPC",
    "load",
]
