"""What every sampler shares: noise that belongs to one video, the guidance scale of each step, and
the denoising loop.

Shapes: B videos, ... the axes of one latent.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from pav_jax.errors import BadInput


def video_keys(seeds: Sequence[int]) -> Key[Array, "B"]:
    """One key per video from a seed of up to 64 bits; equal to `jax.random.key(seed)` for seeds of
    32 bits."""
    words = [[(seed >> 32) & 0xFFFFFFFF, seed & 0xFFFFFFFF] for seed in seeds]
    return jax.random.wrap_key_data(jnp.asarray(np.asarray(words, np.uint32)), impl="threefry2x32")


def noise(
    keys_B: Key[Array, "B"], index: Array | int, shape: tuple[int, ...]
) -> Float[Array, "B ..."]:
    """Draw number `index` of each video: 0 is the initial latent, i + 1 the noise of step i.

    Each video draws from its own key, so what it gets does not depend on the others in the batch.
    """
    return jax.vmap(
        lambda key: jax.random.normal(jax.random.fold_in(key, index), shape, jnp.float32)
    )(keys_B)


def guidance_scales(
    timesteps: np.ndarray, scale: float, dynamic: bool
) -> Float[np.ndarray, "steps"]:
    """The guidance scale of each step.

    Dynamic guidance is 1 + s (1 - cos(pi ((steps - t) / steps)^5)) / 2 with t the training
    timestep, as CogVideoX's own sampler and diffusers have it. t is mostly larger than `steps`, so
    this swings rather than ramps; the power is large, so it needs float64.
    """
    if not dynamic:
        return np.full(len(timesteps), scale, np.float32)
    steps = len(timesteps)
    phase = ((steps - timesteps.astype(np.float64)) / steps) ** 5
    return (1 + scale * (1 - np.cos(np.pi * phase)) / 2).astype(np.float32)


def denoise(
    step: Callable,
    predict: Callable[[Array, Array], Array],
    carry: tuple[Any, Float[Array, "B ..."]],
    steps: tuple[int, int],
) -> tuple[Any, Float[Array, "B ..."]]:
    """Neighbouring steps of the sampling loop as one scan.

    Args:
      step: see `stepper`.
      predict: (latents, step index) -> the guided model output, float32.
      carry: the scheduler's state and the latents.
      steps: the first step, and the step after the last one.

    Returns:
      The state and the latents after these steps.
    """

    def body(carry, index):
        return step(carry, predict(carry[1], index), index), None

    return jax.lax.scan(body, carry, jnp.arange(*steps))[0]


def stepper(plan, keys_B: Key[Array, "B"], needs_noise: bool) -> Callable:
    """One step of the loop: ((scheduler's state, latents), model output, step index) -> (state,
    latents)."""

    def step(carry, output, index):
        state, sample = carry
        drawn = noise(keys_B, index + 1, sample.shape[1:]) if needs_noise else None
        return plan.step(state, output, index, sample, drawn)

    return step


def valid_unicode(text: str) -> str:
    """The text with "?" for lone surrogates, which have no UTF-8 form; records store it alike."""
    return text.encode("utf-8", "replace").decode()


def per_prompt(name: str, value: str | Sequence[str], count: int) -> list[str]:
    """One text per prompt from a single text or a sequence.

    Raises:
      BadInput: a sequence of another length.
    """
    if isinstance(value, str):
        return [value] * count
    if len(value) != count:
        raise BadInput(
            f"{name}: {len(value)} texts for {count} prompts; give one, or one per prompt",
            field=name,
        )
    return list(value)


def batches(count: int, batch: int) -> Iterator[tuple[list[int], int]]:
    """Yield the row numbers of each batch and the number of real rows.

    The last batch is padded by repeating its last row.
    """
    for start in range(0, count, batch):
        rows = list(range(start, min(start + batch, count)))
        yield rows + rows[-1:] * (batch - len(rows)), len(rows)
