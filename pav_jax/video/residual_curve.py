"""The curve by which `generator.cache_threshold` foresees which steps may keep an earlier residual,
measured.

One prompt does for large models (arXiv 2506.09045, section 3.3). The curve belongs to the weights
and the scheduler.

Shapes: B videos, ... the axes of a residual.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from pav_jax.video import residual_cache, sampling
from pav_jax.video.video_model import VideoModel


def ratios(model: VideoModel, prompts: Sequence[str], seed: int = 0) -> Float[np.ndarray, "steps"]:
    """The curve of full samplings of `prompts`, all at once: of each step, the mean over video
    tokens, prompts and both branches of guidance; 1 for the first step, which has none before
    it."""
    family, rows = model.family, list(range(len(prompts)))
    request = model.make_request(list(prompts), seed=[seed + row for row in rows])
    text, negative = model.encode_prompts(request, rows)
    keys_B = sampling.video_keys(request.seeds)

    def run(params, text, negative, keys_B, scales):
        latents = sampling.noise(keys_B, 0, request.latent_shape)
        plan = family.plan(len(request.guidance_scales), latents)
        step = sampling.stepper(plan, keys_B, family.scheduler.needs_noise)

        def predict(sample, index):
            timestep = jnp.asarray(plan.timesteps, jnp.float32)[index]
            return family.predict(
                params, sample, text, negative, timestep, scales[index], keep_residual=True
            )

        def body(kept, index):
            carry, before = kept
            output, residual = predict(carry[1], index)
            ours = (family.video_tokens(x, latents, text.shape[1]) for x in (residual, before))
            return (step(carry, output, index), residual), residual_cache.magnitude_ratio(*ours)

        shape = jax.eval_shape(lambda x: predict(x, 0)[1], latents)
        kept = (plan.start(latents), latents), jnp.ones(shape.shape, shape.dtype)
        return jax.lax.scan(body, kept, jnp.arange(len(request.guidance_scales)))[1]

    found = np.asarray(
        jax.jit(run)(
            {"transformer": model.params["transformer"]},
            text,
            negative,
            keys_B,
            request.guidance_scales,
        )
    )
    return np.concatenate([[1.0], found[1:]])
