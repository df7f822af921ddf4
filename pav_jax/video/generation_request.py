"""A checked call of `VideoModel.generate`.

Shapes: B videos, S text tokens; T, H, W frames, height, width in pixels; t, h, w, C those of the
latent and its channels.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from pav_jax.errors import BadInput
from pav_jax.video import memory, step_schedule
from pav_jax.video.family import Family
from pav_jax.video.generation_config import GenerationConfig
from pav_jax.video.step_schedule import StepSchedule

MAX_RELATIVE_PIXELS = 64  # of a video, as a multiple of those the model was made for
LATENT_AXES = ("videos", "frames", "height", "width", "channels")


@dataclasses.dataclass(frozen=True)
class GenerationRequest:
    """What is generated: one row of token ids, latents and seeds for each video.

    Attributes:
      token_ids: [B, S].
      negative_token_ids: [B, S] of the other branch; None without guidance.
      latents: initial noise [B, t, h, w, C]; None: drawn from the seeds.
      seeds: one per video.
      guidance_scales: one per denoising step.
      settings: the settings of this call.
      size: frames, height and width in pixels.
      latent_shape: [t, h, w, C].
      decoded_latent_frames: how many of the last latent frames are decoded.
      step_schedule: which steps do less work; None: none of them.
    """

    token_ids: Int[np.ndarray, "B S"]
    negative_token_ids: Int[np.ndarray, "B S"] | None
    latents: Float[np.ndarray, "B t h w C"] | None
    seeds: list[int]
    guidance_scales: Float[np.ndarray, "steps"]
    settings: GenerationConfig
    size: tuple[int, int, int]
    latent_shape: tuple[int, int, int, int]
    decoded_latent_frames: int
    step_schedule: StepSchedule | None


def video_size(family: Family, settings: GenerationConfig) -> tuple[int, int, int]:
    """Frames, height and width in pixels; what the settings leave open is the family's own."""
    frames, height, width = family.default_size()
    return settings.num_frames or frames, settings.height or height, settings.width or width


def check_size(own: tuple[int, int, int], size: tuple[int, int, int]) -> None:
    """Check (frames, height, width in pixels) against the model's own size.

    Raises:
      BadInput: it has more than MAX_RELATIVE_PIXELS times as many pixels.
    """
    limit = MAX_RELATIVE_PIXELS * math.prod(own)
    if math.prod(size) > limit:
        frames, height, width = size
        field = memory.largest_field(size, own)
        raise BadInput(
            f"num_frames={frames}, height={height}, width={width}: {math.prod(size):,} pixels; the"
            f" limit is {limit:,}, {MAX_RELATIVE_PIXELS} times the model's own size; lower {field}",
            source="generate",
            field=field,
        )


def check_memory(
    family: Family,
    size: tuple[int, int, int],
    latent_shape: tuple[int, int, int, int],
    batch_size: int,
    devices: Sequence[Any],
) -> None:
    """Check (frames, height, width in pixels) of a batch against the memory of its devices.

    Raises:
      BadInput: the least that the batch needs is more than there is.
    """
    config = family.transformer.config
    itemsize = jnp.dtype(family.transformer.dtype).itemsize
    needed = max(
        memory.video_bytes(size, batch_size),
        memory.denoiser_bytes(
            latent_shape, config.patch_volume, config.width, itemsize, batch_size
        ),
    )
    memory.check_fits(needed, memory.device_bytes(devices), size, family.default_size(), batch_size)


def make_request(
    family: Family,
    settings: GenerationConfig,
    token_ids: Int[np.ndarray, "B S"],
    negative_token_ids: Int[np.ndarray, "B S"] | None,
    seeds: list[int],
    latents: Any = None,
    devices: Sequence[Any] | None = None,
) -> GenerationRequest:
    """Checks sizes, memory, steps and latents.

    Args:
      devices: that make a batch; None: the default device.
      latents: initial noise in the axis order of `family.latent_axes`.

    Raises:
      BadInput: the family cannot make such a video, a batch does not fit into memory, or the
        latents have another shape.
    """
    size = video_size(family, settings)
    check_size(family.default_size(), size)  # before the family evaluates shapes of that size
    latent_shape, decoded_latent_frames = family.latent_shape(*size)
    devices = devices or jax.local_devices()[:1]
    check_memory(family, size, latent_shape, settings.batch_size, devices)
    if latents is not None:
        latents = _to_channels_last(latents, (len(seeds), *latent_shape), family.latent_axes)
    family.check_settings(settings)
    scales = family.guidance_scales(settings)
    switches = [part.first for part in family.denoiser_steps(settings.num_inference_steps)]
    return GenerationRequest(
        token_ids,
        negative_token_ids,
        latents,
        seeds,
        scales,
        settings,
        size,
        latent_shape,
        decoded_latent_frames,
        step_schedule.make_step_schedule(settings, switches),
    )


def _to_channels_last(
    latents: Any, shape: tuple[int, ...], axes: tuple[str, ...]
) -> Float[np.ndarray, "B t h w C"]:
    """Transposes `latents`, whose axes are `axes`, to `LATENT_AXES`, and checks their `shape`."""
    latents = np.asarray(latents, np.float32)
    expected = [shape[LATENT_AXES.index(axis)] for axis in axes]
    if list(latents.shape) != expected:
        raise BadInput(
            f"latents: shape {list(latents.shape)}; expected ({', '.join(axes)}) = {expected}",
            field="latents",
        )
    return latents.transpose([axes.index(axis) for axis in LATENT_AXES])
