"""The noise schedule both CogVideoX samplers share: how noisy each training timestep is, and which
ones are visited.

All tables are numpy, computed once on the host in the precision diffusers uses; what enters a
program is float32. Sources: Ho et al. 2020 (arXiv 2006.11239); zero terminal SNR and the spacings,
Lin et al. 2023 (arXiv 2305.08891), algorithm 1 and table 2; the SNR shift, Esser et al. 2024 (arXiv
2403.03206), section 5.3.2.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pav_jax.errors import BadInput
from pav_jax.typed_fields import Length, Positive, Range, read_fields
from pav_jax.video.schedulers import flow
from pav_jax.video.schedulers.flow import MAX_TRAIN_TIMESTEPS, TrainTimesteps

Beta = Annotated[float, Range(0, 1, positive=True)]


@dataclasses.dataclass(frozen=True)
class ScheduleFields:
    """The fields of scheduler_config.json that describe the schedule, with diffusers' defaults."""

    num_train_timesteps: TrainTimesteps = 1000
    beta_start: Beta = 0.00085
    beta_end: Beta = 0.0120
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "scaled_linear"
    trained_betas: Annotated[tuple[Beta, ...], Length(1, MAX_TRAIN_TIMESTEPS)] | None = None
    prediction_type: Literal["epsilon", "sample", "v_prediction"] = "epsilon"
    timestep_spacing: Literal["leading", "linspace", "trailing"] = "leading"
    snr_shift_scale: Positive = 3.0
    rescale_betas_zero_snr: bool = False
    set_alpha_to_one: bool = True
    steps_offset: Annotated[int, Range(0, MAX_TRAIN_TIMESTEPS)] = 0


@dataclasses.dataclass(frozen=True)
class NoiseSchedule:
    """Cumulative signal levels of a trained model.

    Attributes:
      alphas: the share of signal power left at each training timestep, [num_train_timesteps].
      final_alpha: the level after the last step.
    """

    alphas: np.ndarray
    final_alpha: float
    prediction_type: str
    timestep_spacing: str
    steps_offset: int

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], source: str = "scheduler_config.json"
    ) -> "NoiseSchedule":
        """Reads diffusers' fields, with its defaults.

        Raises:
          BadInput: a choice that diffusers' CogVideoX schedulers do not know either.
        """
        fields = read_fields(ScheduleFields, config, source)
        betas = _betas(fields)
        alphas = np.cumprod(1.0 - betas, dtype=betas.dtype)
        shift = fields.snr_shift_scale
        alphas = alphas / (shift + (1 - shift) * alphas)
        if fields.rescale_betas_zero_snr:
            alphas = zero_terminal_snr(alphas)
        if not np.isfinite(alphas).all():
            raise BadInput(
                f"{source}: beta_start={fields.beta_start}, beta_end={fields.beta_end} and"
                f" num_train_timesteps={len(betas)} give no usable noise levels",
                source=source,
                field="beta_end",
            )
        final = 1.0 if fields.set_alpha_to_one else float(alphas[0])
        return cls(
            alphas, final, fields.prediction_type, fields.timestep_spacing, fields.steps_offset
        )

    def timesteps(self, steps: int) -> Int[np.ndarray, "steps"]:
        """The training timesteps that `steps` sampling steps visit, noisiest first.

        Raises:
          BadInput: fewer than one step, or more than the model was trained on.
        """
        total = len(self.alphas)
        flow.check_steps(steps, total)
        if self.timestep_spacing == "linspace":
            return np.linspace(0, total - 1, steps).round()[::-1].astype(np.int64)
        if self.timestep_spacing == "leading":
            return np.arange(steps)[::-1] * (total // steps) + self.steps_offset
        return np.round(np.arange(total, 0, -total / steps)).astype(np.int64) - 1

    def levels(self, steps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Signal level at each step and after it, and whether it is the last (the level after it is
        `final_alpha`).

        diffusers takes the level after a step at `timestep - total // steps`, not at the next
        visited timestep; where these differ (steps that do not divide the total) so does the
        result, and we follow it.
        """
        timesteps = self.timesteps(steps)
        following = timesteps - len(self.alphas) // steps
        last = following < 0
        after = np.where(
            last,
            np.asarray(self.final_alpha, self.alphas.dtype),
            self.alphas[np.maximum(following, 0)],
        )
        return self.alphas[timesteps], after, last

    def denoised_weights(self, alpha: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(p, q) such that the denoised sample is `p * sample + q * model_output` at signal level
        `alpha`."""
        signal = np.sqrt(alpha)
        noise = np.sqrt(1 - alpha)
        if self.prediction_type == "sample":
            return np.zeros_like(alpha), np.ones_like(alpha)
        if (
            self.prediction_type == "v_prediction"
        ):  # Salimans & Ho 2022 (arXiv 2202.00512), section 4
            return signal, -noise
        with np.errstate(divide="ignore"):
            return 1 / signal, -noise / signal

    def add_noise(
        self,
        clean: Float[Array, "B ..."],
        noise: Float[Array, "B ..."],
        timesteps_B: Int[Array, "B"],
    ) -> Float[Array, "B ..."]:
        """The training input at `timesteps_B`; float32."""
        signal, level = self._signal_and_noise(timesteps_B, clean.ndim)
        return signal * clean + level * noise

    def velocity(
        self,
        clean: Float[Array, "B ..."],
        noise: Float[Array, "B ..."],
        timesteps_B: Int[Array, "B"],
    ) -> Float[Array, "B ..."]:
        """The target of a model trained on `v_prediction`; float32."""
        signal, level = self._signal_and_noise(timesteps_B, clean.ndim)
        return signal * noise - level * clean

    def _signal_and_noise(self, timesteps_B, rank: int) -> tuple[Array, Array]:
        shape = (-1,) + (1,) * (rank - 1)
        signal = jnp.asarray(np.sqrt(self.alphas), jnp.float32)
        noise = jnp.asarray(np.sqrt(1 - self.alphas), jnp.float32)
        return signal[timesteps_B].reshape(shape), noise[timesteps_B].reshape(shape)


def zero_terminal_snr(alphas: np.ndarray) -> np.ndarray:
    """Shifts and scales the square roots so that the first level stays and the last is exactly
    zero."""
    roots = np.sqrt(alphas)
    return ((roots - roots[-1]) * (roots[0] / (roots[0] - roots[-1]))) ** 2


def _betas(fields: ScheduleFields) -> np.ndarray:
    if fields.trained_betas is not None:
        return np.asarray(fields.trained_betas, np.float32)
    total = fields.num_train_timesteps
    first = fields.beta_start
    last = fields.beta_end
    if fields.beta_schedule == "linear":
        return np.linspace(first, last, total, dtype=np.float32)
    if fields.beta_schedule == "scaled_linear":
        return np.linspace(first**0.5, last**0.5, total) ** 2

    def level(t: float) -> float:
        """The signal level at time `t` in 0..1 (arXiv 2102.09672, equation 17)."""
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    return np.asarray(
        [min(1 - level((i + 1) / total) / level(i / total), 0.999) for i in range(total)],
        np.float32,
    )
