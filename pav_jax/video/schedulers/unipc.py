"""UniPC on the levels of flow matching (`UniPCMultistepScheduler` with use_flow_sigmas), Wan 2.1's
sampler.

Source: Zhao et al. 2023 (arXiv 2302.04867), algorithms 1 and 2, in the form that predicts x0. Let
lambda be the log of the ratio of signal to noise amplitude, h its growth over a step from s to t,
B(h) = -h ("bh1") or expm1(-h) ("bh2"), m_0 the denoised sample at s, m_k the one k steps earlier,
r_k the ratio of their distance in lambda to h. Then
    next = sigma_t / sigma_s * sample - alpha_t * (expm1(-h) * m_0 + B(h) * sum_k rho_k * (m_k -
    m_0) / r_k).
The predictor knows the past; the corrector repeats the step when the model has been asked at its
end, which counts as r = 1. What is asked there serves both, so the corrector costs no evaluation.
The rho solve a small linear system, and a step is linear in the samples and the m, so all of it
becomes a table of weights, made once on the host in float64.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pav_jax.models import fields
from pav_jax.typed_fields import Positive, Range, read_fields
from pav_jax.video.schedulers import flow

# choices of diffusers' class that this one has in one value only
FIXED = {
    "use_flow_sigmas": True,
    "prediction_type": "flow_prediction",
    "predict_x0": True,
    "thresholding": False,
    "solver_p": None,
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "use_dynamic_shifting": False,
}
# diffusers' defaults of these differ, so a configuration has to say them
SAID = {"use_flow_sigmas": False, "prediction_type": "epsilon"}


@dataclasses.dataclass(frozen=True)
class UniPCFields:
    """The fields of scheduler_config.json that are read, with diffusers' defaults."""

    num_train_timesteps: flow.TrainTimesteps = 1000
    flow_shift: Positive = 1.0
    shift_terminal: flow.Terminal | None = None
    solver_order: Annotated[int, Range(1, 16)] = 2
    solver_type: Literal["bh1", "bh2"] = "bh2"
    lower_order_final: bool = True
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"
    disable_corrector: tuple[Annotated[int, Range(0)], ...] | None = None


@dataclasses.dataclass(frozen=True)
class UniPC:
    """See `pav_jax.video.schedulers` for what a scheduler and its plan offer."""

    total: int  # training timesteps
    shift: float
    shift_terminal: float | None
    order: int
    kind: str  # "bh1" or "bh2"
    lower_order_final: bool
    end_at_zero: bool  # False: the last step stays where it is
    uncorrected: frozenset[int]  # steps after which there is no correction
    config: Mapping[str, Any]
    needs_noise = False

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], source: str = "scheduler_config.json"
    ) -> "UniPC":
        """Reads diffusers' fields, with its defaults.

        Raises:
          BadInput: a choice that is not supported, or a number out of range.
        """
        fields.check_fixed(SAID | dict(config), FIXED, source)
        values = read_fields(UniPCFields, config, source)
        return cls(
            values.num_train_timesteps,
            values.flow_shift,
            values.shift_terminal,
            values.solver_order,
            values.solver_type,
            values.lower_order_final,
            values.final_sigmas_type == "zero",
            frozenset(values.disable_corrector or ()),
            dict(config),
        )

    def _levels(self, steps: int) -> Float[np.ndarray, "steps"]:
        flow.check_steps(steps, self.total)
        levels = flow.shifted(np.linspace(1, 1 / self.total, steps + 1)[:-1], self.shift)
        levels = flow.stretched(levels, self.shift_terminal)
        levels[0] -= 1e-6 * (abs(levels[0] - 1) < 1e-6)  # pure noise has no logarithm of its signal
        return levels

    def sigmas(self, steps: int) -> Float[np.ndarray, "levels"]:
        """Levels before each step and after the last."""
        levels = self._levels(steps)
        return np.append(levels, 0.0 if self.end_at_zero else levels[-1]).astype(np.float32)

    def timesteps(self, steps: int) -> Int[np.ndarray, "steps"]:
        """The timesteps of a run, from noise to video."""
        return (self._levels(steps) * self.total).astype(np.int64)

    def plan(self, steps: int) -> "UniPCPlan":
        """The coefficients of a run of `steps` steps."""
        sigmas = self.sigmas(steps)
        # 1 - sigma in float32 as diffusers has it: of the first level that is all but rounding
        signal = (np.float32(1) - sigmas).astype(np.float64)
        sigmas = sigmas.astype(np.float64)
        with np.errstate(divide="ignore"):
            lam = np.log(signal) - np.log(sigmas)
        orders = [
            min(self.order, i + 1, steps - i if self.lower_order_final else self.order)
            for i in range(steps)
        ]
        if self.end_at_zero:
            orders[-1] = 1  # the last h is infinite, and no earlier point helps
        predict = np.zeros((steps, 1 + self.order))
        correct = np.zeros((steps, 3 + self.order))
        for i in range(steps):
            base, past, _ = self._weights(signal, sigmas, lam, i, orders[i], corrector=False)
            predict[i, : 1 + orders[i]] = (base, *past)
            if i == 0 or i - 1 in self.uncorrected:
                correct[i, 0] = 1.0
            else:
                base, past, here = self._weights(
                    signal, sigmas, lam, i - 1, orders[i - 1], corrector=True
                )
                correct[i, 1 : 3 + orders[i - 1]] = (base, here, *past)
        return UniPCPlan(
            self.timesteps(steps),
            sigmas[:-1].astype(np.float32),
            predict.astype(np.float32),
            correct.astype(np.float32),
        )

    def _weights(
        self,
        signal: np.ndarray,
        sigmas: np.ndarray,
        lam: np.ndarray,
        i: int,
        order: int,
        corrector: bool,
    ) -> tuple[float, list[float], float]:
        """Of the step from level i to i + 1: weights of the sample at i, of m_0, m_1, ... , and of
        the denoised sample at i + 1, which only the corrector has."""
        h = lam[i + 1] - lam[i]
        growth = math.expm1(-h)
        outer = -h if self.kind == "bh1" else growth
        past = [-signal[i + 1] * growth] + [0.0] * (order - 1)
        here = 0.0
        ratios = [(lam[i - k] - lam[i]) / h for k in range(1, order) if h] + [
            1.0
        ] * corrector  # h 0: it goes nowhere
        for k, (ratio, rho) in enumerate(
            zip(ratios, self._rho(-h, growth, outer, ratios), strict=True), start=1
        ):
            weight = -signal[i + 1] * outer * rho / ratio
            past[0] -= weight
            if k < order:
                past[k] += weight
            else:
                here = weight
        return sigmas[i + 1] / sigmas[i], past, here

    @staticmethod
    def _rho(hh: float, growth: float, outer: float, ratios: list[float]) -> np.ndarray:
        """Solves equation 11 of the paper; with one ratio 1/2 stands for the solution, as in its
        section 3.4."""
        if len(ratios) < 2:
            return np.full(len(ratios), 0.5)
        phi = growth / hh - 1
        factorial = 1
        right = []
        for k in range(1, len(ratios) + 1):
            right.append(phi * factorial / outer)
            factorial *= k + 1
            phi = phi / hh - 1 / factorial
        return np.linalg.solve(np.vander(ratios, increasing=True).T, right)


@dataclasses.dataclass(frozen=True)
class UniPCPlan:
    """The weights of every step. The state is the last corrected sample and the denoised samples,
    newest first.

    Attributes:
      predict: weights of the corrected sample and of each denoised one, newest first.
      correct: weights of the sample, of the last corrected one, and of the denoised ones.
    """

    timesteps: Int[np.ndarray, "steps"]
    sigmas: Float[np.ndarray, "steps"]
    predict: Float[np.ndarray, "steps predictor_weights"]
    correct: Float[np.ndarray, "steps corrector_weights"]

    def start(self, sample: Array) -> tuple[Array, Array]:
        """The initial state of a sampling run."""
        zeros = jnp.zeros(sample.shape, jnp.float32)
        return zeros, jnp.stack([zeros] * (self.predict.shape[1] - 1))

    def step(
        self,
        state: tuple[Array, Array],
        output: Float[Array, "..."],
        index: Int[Array, ""],
        sample: Float[Array, "..."],
        noise: Float[Array, "..."] | None = None,
    ) -> tuple[tuple[Array, Array], Float[Array, "..."]]:
        """One step: (next state, next sample), from the model's output at step `index`."""
        last, history = state
        predict = jnp.asarray(self.predict)[index]
        correct = jnp.asarray(self.correct)[index]
        denoised = sample - jnp.asarray(self.sigmas)[index] * output
        corrected = (
            correct[0] * sample
            + correct[1] * last
            + correct[2] * denoised
            + sum(weight * old for weight, old in zip(correct[3:], history, strict=True))
        )
        history = jnp.concatenate([denoised[None], history[:-1]])
        after = predict[0] * corrected + sum(
            weight * old for weight, old in zip(predict[1:], history, strict=True)
        )
        return (corrected, history), after
