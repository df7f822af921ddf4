"""Measures the curve by which `generator.cache_threshold` predicts when a residual may be reused.

One prompt is enough for large models (arXiv 2506.09045, section 3.3). The curve belongs to the
weights and the scheduler.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from pav_jax.video import residual_cache, sampling
from pav_jax.video.video_model import VideoModel


def measure_ratios(
    model: VideoModel, prompts: Sequence[str], seed: int = 0
) -> Float[np.ndarray, "steps"]:
    """Measure the ratio of each step's residual to that of the previous step.

    All prompts are sampled in one batch, without skipping steps.

    Returns:
      The means over video tokens, prompts and both branches of guidance; 1 for the first step of a
      denoiser.
    """
    family = model.family
    rows = list(range(len(prompts)))
    request = model.make_request(list(prompts), seed=[seed + row for row in rows])
    text, negative = model.encode_prompts(request, rows)
    keys_B = sampling.video_keys(request.seeds)
    num_steps = len(request.guidance_scales)

    def run(params, text, negative, keys_B, scales):
        latents = sampling.noise(keys_B, 0, request.latent_shape)
        plan = family.plan(num_steps, latents)
        step = sampling.stepper(plan, keys_B, family.scheduler.needs_noise)
        carry = plan.start(latents), latents
        curves = []
        for part in family.denoiser_steps(num_steps):
            denoiser = family.with_denoiser(part.denoiser)
            own_params = {"transformer": params[part.denoiser]}

            def predict(sample, index, denoiser=denoiser, own_params=own_params):
                timestep = jnp.asarray(plan.timesteps, jnp.float32)[index]
                return denoiser.predict(
                    own_params, sample, text, negative, timestep, scales[index], keep_residual=True
                )

            def body(state, index, predict=predict):
                carry, previous = state
                output, residual = predict(carry[1], index)
                ratio = residual_cache.magnitude_ratio(
                    family.video_tokens(residual, latents, text.shape[1]),
                    family.video_tokens(previous, latents, text.shape[1]),
                )
                return (step(carry, output, index), residual), ratio

            shape = jax.eval_shape(lambda x, predict=predict: predict(x, 0)[1], latents)
            state = carry, jnp.ones(shape.shape, shape.dtype)
            (carry, _), ratios = jax.lax.scan(body, state, jnp.arange(part.first, part.stop))
            # the first residual of a denoiser has no predecessor
            curves.append(ratios.at[0].set(1.0))
        return jnp.concatenate(curves)

    params = {name: model.params[name] for name in family.denoisers}
    return np.asarray(jax.jit(run)(params, text, negative, keys_B, request.guidance_scales))
