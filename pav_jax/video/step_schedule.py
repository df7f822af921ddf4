"""Denoising steps that do less work: no guidance outside an interval, and reused residuals.

Which steps these are is fixed by the settings and the number of steps, so all videos of a batch
share them and a video does not depend on the others.

Sources: guidance in an interval, Kynkaanniemi et al. 2024 (arXiv 2404.07724); reused residuals, see
`residual_cache`.
"""

import dataclasses
import math
from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pav_jax.errors import BadInput
from pav_jax.video.generation_config import GenerationConfig
from pav_jax.video.guidance import positive_rows
from pav_jax.video.residual_cache import interpolate_ratios, schedule_steps

# 0.29 * 100 in floating point is slightly below 29
ROUNDING_TOLERANCE = 1e-9


@dataclasses.dataclass(frozen=True)
class StepSchedule:
    """What each step does. Programs are compiled for one schedule.

    Attributes:
      guided: the first step with guidance, and the step after the last one.
      computed: for each step, whether it runs the layers.
    """

    guided: tuple[int, int]
    computed: tuple[bool, ...]

    def segments(
        self, guidance: bool, steps: tuple[int, int] | None = None
    ) -> list[tuple[int, int, bool]]:
        """The runs of steps with and without guidance: (first step, step after the last, guided).

        Args:
          guidance: False: no step is guided.
          steps: only steps between these two, the second excluded; None: all.
        """
        begin, end = steps or (0, len(self.computed))
        start, stop = self.guided
        parts = ((0, start, False), (start, stop, True), (stop, len(self.computed), False))
        if not guidance:
            parts = ((0, len(self.computed), False),)
        clipped = [(max(first, begin), min(last, end), guided) for first, last, guided in parts]
        return [part for part in clipped if part[0] < part[1]]

    def evaluations(self, guidance: bool = True) -> int:
        """How often the layers run for one video; a guided step counts twice."""
        return sum(
            sum(self.computed[first:last]) * (2 if guided else 1)
            for first, last, guided in self.segments(guidance)
        )

    def denoise(
        self,
        step: Callable,
        predict: Callable,
        carry: tuple[Any, Float[Array, "B ..."]],
        steps: tuple[int, int],
        guidance: bool,
        cfg_parallel: bool,
    ) -> tuple[Any, Float[Array, "B ..."]]:
        """As `sampling.denoise`, with one scan for each of `segments`: without guidance the batch
        is not doubled. The first of the steps is computed, if any step reuses a residual.

        Args:
          predict: (latents, step index, guided) -> the model output, float32; with
            `keep_residual=True` (output, residual of the layers); with `residual=` the layers do
            not run.
          cfg_parallel: see `guidance.stack_branches`.
        """
        reuses_residuals = not all(self.computed)
        residual = None
        was_guided = False
        for first, last, guided in self.segments(guidance, steps):
            if reuses_residuals:
                residual = _initial_residual(
                    predict, carry[1], residual, was_guided, guided, cfg_parallel
                )

            def body(state, inputs, guided=guided):
                carry, residual = state
                index, computed = inputs
                if not reuses_residuals:
                    return (step(carry, predict(carry[1], index, guided), index), None), None
                output, residual = jax.lax.cond(
                    computed,
                    lambda: predict(carry[1], index, guided, keep_residual=True),
                    lambda: (predict(carry[1], index, guided, residual=residual), residual),
                )
                return (step(carry, output, index), residual), None

            inputs = jnp.arange(first, last), jnp.asarray(self.computed[first:last])
            (carry, residual), _ = jax.lax.scan(body, (carry, residual), inputs)
            was_guided = guided
        return carry


def _initial_residual(
    predict: Callable,
    latents: Array,
    residual: Array | None,
    was_guided: bool,
    guided: bool,
    cfg_parallel: bool,
) -> Array:
    """The residual at the start of a segment: that of the previous segment if it has the rows."""
    if residual is not None and was_guided and not guided:
        return positive_rows(residual, cfg_parallel)
    shape = jax.eval_shape(lambda x: predict(x, 0, guided, keep_residual=True)[1], latents)
    # never read: the first step of the segment is computed
    return jnp.zeros(shape.shape, shape.dtype)


def check(settings: GenerationConfig) -> None:
    """Raises BadInput if settings that save work contradict each other."""
    start = settings.guidance_start
    stop = settings.guidance_stop
    if start >= stop:
        raise BadInput(
            f"guidance_start={start:g}, guidance_stop={stop:g}: the first must be below the second;"
            " guidance_scale=1 switches guidance off",
            source="generator",
            field="guidance_start",
        )
    if (start, stop) != (0, 1) and settings.cfg_parallel:
        raise BadInput(
            f"guidance_start={start:g}, guidance_stop={stop:g}: with cfg_parallel half of the mesh"
            " would idle outside of this interval; set only one of them",
            source="generator",
            field="cfg_parallel",
        )
    if settings.cache_threshold > 0 and settings.cache_ratios is None:
        raise BadInput(
            f"cache_threshold={settings.cache_threshold:g}: this model has no cache_ratios in its"
            " pav_generation.json; measure them with `pav cache-curve FOLDER`",
            source="generator",
            field="cache_threshold",
        )


def make_step_schedule(
    settings: GenerationConfig, always_computed: Collection[int] = ()
) -> StepSchedule | None:
    """The schedule of a call; None if every step does everything.

    The guided steps are those from floor(guidance_start * steps) up to floor(guidance_stop *
    steps), as in diffusers.

    Args:
      always_computed: steps that cannot reuse a residual, as the first one of another denoiser.

    Raises:
      BadInput: there is guidance, but in none of the steps.
    """
    num_steps = settings.num_inference_steps
    first = 0
    last = num_steps
    if settings.guidance_scale > 1:
        first = math.floor(settings.guidance_start * num_steps + ROUNDING_TOLERANCE)
        last = math.floor(settings.guidance_stop * num_steps + ROUNDING_TOLERANCE)
        if first >= last:
            raise BadInput(
                f"guidance_start={settings.guidance_start:g},"
                f" guidance_stop={settings.guidance_stop:g}: none of the {num_steps} steps lies"
                " between them; guidance_scale=1 switches guidance off",
                source="generator",
                field="guidance_start",
            )
    computed = (True,) * num_steps
    if settings.cache_threshold > 0:
        assert settings.cache_ratios is not None, "see check"
        computed = schedule_steps(
            interpolate_ratios(settings.cache_ratios, num_steps),
            settings.cache_threshold,
            settings.cache_retention,
            settings.cache_max_skips,
            # where guidance sets in, its other branch has no residual yet
            always_computed={first, *always_computed},
        )
    if (first, last) == (0, num_steps) and all(computed):
        return None
    return StepSchedule((first, last), computed)
