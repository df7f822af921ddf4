"""The least memory that videos need, compared with what there is before anything is allocated.

Shapes: T, H, W frames, height, width in pixels; t, h, w, C those of a latent and its channels.
"""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pav_jax.errors import BadInput

CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")  # of a container
FRAME_BYTES = 3  # of a pixel of the result, uint8 RGB
LATENT_BYTES = 3 * 4  # of a value: float32 noise, latent and prediction
TOKEN_ARRAYS = 4  # of the denoiser's width at once: the tokens, queries, keys and values
FIELDS = ("num_frames", "height", "width")


def system_bytes() -> int:
    """The memory of this machine or container."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(total, int(CGROUP_LIMIT.read_text()))
    except (OSError, ValueError):  # no container, or "max"
        return total


def device_bytes(devices: Sequence[Any]) -> int:
    """The memory of some devices together; that of the system where they are the CPU."""
    if devices[0].platform == "cpu":
        return system_bytes()
    limits = [(device.memory_stats() or {}).get("bytes_limit") for device in devices]
    return sum(limit for limit in limits if limit) if all(limits) else system_bytes()


def video_bytes(size: Sequence[int], videos: int) -> int:
    """The frames of `videos` videos of (T, H, W), as they are returned."""
    return videos * math.prod(size) * FRAME_BYTES


def denoiser_bytes(
    latent_shape: Sequence[int], patch_volume: int, width: int, itemsize: int, videos: int
) -> int:
    """The latents [t, h, w, C] of `videos` videos and their tokens in one layer of the denoiser.

    Args:
      patch_volume: positions of the latent in a token.
      width: features of a token.
      itemsize: bytes of a feature.
    """
    latents = math.prod(latent_shape) * LATENT_BYTES
    tokens = math.prod(latent_shape[:3]) // patch_volume * width * itemsize * TOKEN_ARRAYS
    return videos * (latents + tokens)


def check_fits(
    needed: int, available: int, size: Sequence[int], own_size: Sequence[int], batch_size: int
) -> None:
    """Compare what is needed with what there is.

    Args:
      size: (T, H, W) of the videos.
      own_size: of the videos that the model was made for.
      batch_size: videos at once.

    Raises:
      BadInput: it does not fit; names the field to lower.
    """
    if needed <= available:
        return
    values = dict(zip(FIELDS, size, strict=True)) | {"batch_size": batch_size}
    field = largest_field(size, own_size)
    if batch_size > 1 and needed // batch_size <= available:
        field = "batch_size"
    shown = ", ".join(f"{name}={value}" for name, value in values.items())
    raise BadInput(
        f"{shown}: needs at least {needed / 2**30:,.1f} GiB of memory, and there are"
        f" {available / 2**30:,.1f} GiB; lower {field}",
        source="generate",
        field=field,
    )


def largest_field(size: Sequence[int], own_size: Sequence[int]) -> str:
    """The field of a size (T, H, W) that is farthest above that of the model's own videos."""
    ratios = [value / max(own, 1) for value, own in zip(size, own_size, strict=True)]
    return FIELDS[ratios.index(max(ratios))]
