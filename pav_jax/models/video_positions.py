"""Positions of video tokens (sinusoidal and rotary tables) and sinusoidal timestep features.

One-dimensional tables are made with numpy and broadcast over time, height and width inside the
program, so that a large grid needs no large constant. Which axis has which channels: arXiv
2408.06072, section 2.2, and diffusers 0.35 `models/embeddings.py`.

Shapes: B batch, D width, H head size, N heads, K = H / 2 channel pairs; t, h, w the patch grid; L =
t * h * w video tokens.
"""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def _sin_cos(positions: np.ndarray, channels: int) -> np.ndarray:
    """Return [n, channels]: the sines of every frequency at [n] positions, then the cosines."""
    frequencies = 1.0 / 10000 ** (np.arange(channels // 2, dtype=np.float64) / (channels / 2.0))
    angles = np.outer(positions, frequencies)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def broadcast_tables(
    time: np.ndarray, height: np.ndarray, width: np.ndarray, order: str
) -> Float[Array, "L channels"]:
    """Broadcast three one-dimensional tables over the grid and concatenate their channels.

    Args:
      time, height, width: [t, channels], [h, channels] and [w, channels].
      order: of the channels, a permutation of "thw".
    """
    t = len(time)
    h = len(height)
    w = len(width)
    tables = {
        "t": jnp.asarray(time, jnp.float32)[:, None, None],
        "h": jnp.asarray(height, jnp.float32)[None, :, None],
        "w": jnp.asarray(width, jnp.float32)[None, None, :],
    }
    full = [jnp.broadcast_to(tables[axis], (t, h, w, tables[axis].shape[-1])) for axis in order]
    return jnp.concatenate(full, axis=-1).reshape(t * h * w, -1)


def sinusoidal_table(
    width: int, grid: tuple[int, int, int], spatial_scale: float, temporal_scale: float
) -> Float[Array, "L D"]:
    """Return CogVideoX-2B's additive table: D / 4 channels for time, 3 D / 8 each for w and h.

    Args:
      grid: (t, h, w) in patches.
      spatial_scale, temporal_scale: divisors of the positions.
    """
    t, h, w = grid
    return broadcast_tables(
        _sin_cos(np.arange(t) / temporal_scale, width // 4),
        _sin_cos(np.arange(h) / spatial_scale, 3 * width // 8),
        _sin_cos(np.arange(w) / spatial_scale, 3 * width // 8),
        "twh",
    )


def rotary_tables(
    head_size: int, grid: tuple[int, int, int], base_grid: tuple[int, int] | None
) -> tuple[Float[Array, "L H/2"], Float[Array, "L H/2"]]:
    """Return CogVideoX-5B's cos and sin: H / 4 channels for time, 3 H / 8 each for h and w.

    Args:
      grid: (t, h, w) in patches.
      base_grid: the training resolution (h, w) in patches, into which `grid` is fitted, centred and
        with its aspect ratio. None: positions 0, 1, 2, ... (version 1.5).
    """
    t, h, w = grid
    if base_grid is None:
        rows = np.arange(h, dtype=np.float64)
        columns = np.arange(w, dtype=np.float64)
    else:
        (top, left), (bottom, right) = fitted_region((h, w), base_grid)
        rows = np.linspace(top, bottom * (h - 1) / h, h)
        columns = np.linspace(left, right * (w - 1) / w, w)
    spatial = head_size // 8 * 3
    angles = [
        np.outer(
            positions.astype(np.float32),
            1.0 / 10000 ** (np.arange(0, channels, 2, dtype=np.float32) / channels),
        )
        for positions, channels in (
            (np.arange(t), head_size // 4),
            (rows, spatial),
            (columns, spatial),
        )
    ]
    return rotary_grid(angles)


def rotary_grid(angles: Sequence[np.ndarray]) -> tuple[Float[Array, "L K"], Float[Array, "L K"]]:
    """Return cos and sin over the grid, from the angles per position of time, height and width."""
    time, height, width = angles
    cos = broadcast_tables(np.cos(time), np.cos(height), np.cos(width), "thw")
    sin = broadcast_tables(np.sin(time), np.sin(height), np.sin(width), "thw")
    return cos, sin


def fitted_region(
    grid: tuple[int, int], base: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Scale `grid` to fit inside `base`, centred.

    Returns:
      Corners (top, left) and (bottom, right) in patches of `base`.
    """
    h, w = grid
    base_h, base_w = base
    if h / w > base_h / base_w:
        height = base_h
        width = int(round(base_h / h * w))
    else:
        height = int(round(base_w / w * h))
        width = base_w
    top = int(round((base_h - height) / 2.0))
    left = int(round((base_w - width) / 2.0))
    return (top, left), (top + height, left + width)


def rotate(
    x_BxLxNxH: Float[Array, "B L N H"], rotary: tuple[Array, Array]
) -> Float[Array, "B L N H"]:
    """Rotate the channel pairs (0, 1), (2, 3), ... in float32.

    Args:
      rotary: cos and sin of the angles, each [L, K].
    """
    cos, sin = (table[None, :, None, :] for table in rotary)
    pairs = x_BxLxNxH.astype(jnp.float32).reshape(*x_BxLxNxH.shape[:-1], -1, 2)
    a = pairs[..., 0]
    b = pairs[..., 1]
    rotated = jnp.stack([a * cos - b * sin, b * cos + a * sin], axis=-1)
    return rotated.reshape(x_BxLxNxH.shape).astype(x_BxLxNxH.dtype)


def timestep_features(
    timesteps_B: Array, channels: int, cosine_first: bool = True, shift: float = 0.0
) -> Float[Array, "B channels"]:
    """Return sinusoids of the timestep in float32 (Vaswani et al. 2017, section 3.5).

    Args:
      timesteps_B: training timesteps, possibly fractional.
      cosine_first: cosines before sines.
      shift: diffusers' `downscale_freq_shift`.
    """
    half = channels // 2
    frequencies = np.exp(
        -math.log(10000) * np.arange(half, dtype=np.float32) / (half - shift)
    ).astype(np.float32)
    angles = timesteps_B.astype(jnp.float32)[:, None] * frequencies[None, :]
    waves = [jnp.sin(angles), jnp.cos(angles)]
    if cosine_first:
        waves.reverse()
    return jnp.pad(jnp.concatenate(waves, axis=-1), ((0, 0), (0, channels % 2)))
