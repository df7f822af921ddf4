"""Steps of a sampling that do less than all: no guidance outside an interval, residuals kept over
some steps.

Which steps these are is fixed by the settings and the number of steps, so the videos of a batch
share them and a video does not depend on its neighbours.

Sources: guidance in an interval, Kynkaanniemi et al. 2024 (arXiv 2404.07724); kept residuals, see
`residual_cache`.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from pav_jax.errors import BadInput
from pav_jax.video import sampling
from pav_jax.video.generation_config import GenerationConfig
from pav_jax.video.programs import positive_rows
from pav_jax.video.residual_cache import interpolated, schedule


@dataclasses.dataclass(frozen=True)
class StepSchedule:
    """Programs are compiled for one such.

    Attributes:
      guided: the first step with guidance, and the one after the last.
      computed: whether each step runs the layers.
    """

    guided: tuple[int, int]
    computed: tuple[bool, ...]

    def segments(self, guidance: bool) -> list[tuple[int, int, bool]]:
        """Of each run of steps that are alike: the first, the one after the last, and whether it is
        guided.

        Args:
          guidance: whether there is any.
        """
        steps = len(self.computed)
        if not guidance:
            return [(0, steps, False)]
        start, stop = self.guided
        return [
            part
            for part in ((0, start, False), (start, stop, True), (stop, steps, False))
            if part[0] < part[1]
        ]

    def evaluations(self, guidance: bool = True) -> int:
        """How often the layers run for one video, both branches of guidance counted."""
        return sum(
            sum(self.computed[first:last]) * (1 + guided)
            for first, last, guided in self.segments(guidance)
        )

    def denoise(
        self,
        plan,
        predict: Callable,
        latents: Float[Array, "B ..."],
        keys_B: Key[Array, "B"],
        needs_noise: bool,
        guidance: bool,
        halves: bool,
    ) -> Float[Array, "B ..."]:
        """As `sampling.denoise`, in one scan for each of `segments`: without guidance the batch is
        not doubled.

        Args:
          predict: (latents, step index, whether guided) -> the model output, float32; with
            `keep_residual=True` also the residual of the layers, and with `residual=` it does not
            run them.
          halves: see `programs.split_guidance`.
        """
        step, keeps = sampling.stepper(plan, keys_B, needs_noise), not all(self.computed)
        carry, residual, both = (plan.start(latents), latents), None, False
        for first, last, guided in self.segments(guidance):
            if keeps:
                residual = _start(predict, latents, residual, both, guided, halves)

            def body(kept, at, guided=guided):
                (carry, residual), (index, computed) = kept, at
                if not keeps:
                    return (step(carry, predict(carry[1], index, guided), index), None), None
                output, residual = jax.lax.cond(
                    computed,
                    lambda: predict(carry[1], index, guided, keep_residual=True),
                    lambda: (predict(carry[1], index, guided, residual=residual), residual),
                )
                return (step(carry, output, index), residual), None

            at = jnp.arange(first, last), jnp.asarray(self.computed[first:last])
            (carry, residual), _ = jax.lax.scan(body, (carry, residual), at)
            both = guided
        return carry[1]


def _start(
    predict: Callable,
    latents: Array,
    residual: Array | None,
    both: bool,
    guided: bool,
    halves: bool,
) -> Array:
    """The residual that a segment begins with: that of the one before, where it has rows for all of
    this one's."""
    if residual is not None and both and not guided:
        return positive_rows(residual, halves)
    shape = jax.eval_shape(lambda x: predict(x, 0, guided, keep_residual=True)[1], latents)
    return jnp.zeros(shape.shape, shape.dtype)  # never read: the segment's first step is computed


def check(used: GenerationConfig) -> None:
    """Raises BadInput where settings that save steps do not fit each other."""
    start, stop = used.guidance_start, used.guidance_stop
    if start >= stop:
        raise BadInput(
            f"guidance_start={start:g}, guidance_stop={stop:g}: the first must be below the second;"
            " guidance_scale=1 switches guidance off"
        )
    if (start, stop) != (0, 1) and used.cfg_parallel:
        raise BadInput(
            f"guidance_start={start:g}, guidance_stop={stop:g}: with cfg_parallel half of the mesh"
            " would have nothing to do outside; set either"
        )
    if used.cache_threshold > 0 and used.cache_ratios is None:
        raise BadInput(
            f"cache_threshold={used.cache_threshold:g}: this model has no cache_ratios in its"
            " pav_generation.json; measure them with `pav cache-curve FOLDER`"
        )


def make_step_schedule(used: GenerationConfig) -> StepSchedule | None:
    """The shortcuts of a sampling; None where every step does everything.

    The guided steps are those from floor(guidance_start * steps) up to floor(guidance_stop *
    steps), as in diffusers.

    Raises:
      BadInput: there is guidance, but in none of the steps.
    """
    steps, first, last = used.num_inference_steps, 0, used.num_inference_steps
    if used.guidance_scale > 1:
        # shares such as 0.29 of 100 steps come out a hair below the whole number they mean
        first, last = (
            math.floor(share * steps + 1e-9) for share in (used.guidance_start, used.guidance_stop)
        )
        if first >= last:
            raise BadInput(
                f"guidance_start={used.guidance_start:g}, guidance_stop={used.guidance_stop:g}:"
                f" none of the {steps} steps lies between them; guidance_scale=1 switches"
                " guidance off"
            )
    computed = (True,) * steps
    if used.cache_threshold > 0:
        # where guidance sets in, its other branch has no residual yet
        computed = schedule(
            interpolated(used.cache_ratios, steps),
            used.cache_threshold,
            used.cache_retention,
            used.cache_max_skips,
            must={first},
        )
    return (
        None
        if (first, last) == (0, steps) and all(computed)
        else StepSchedule((first, last), computed)
    )
