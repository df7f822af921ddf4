"""Where a video token sits: sinusoidal tables (CogVideoX-2B), rotary tables (5B) and timestep
features.

One-dimensional tables are made with numpy once and broadcast over time, height and width inside the
program, so a large grid costs no large constant. Source of the layouts: arXiv 2408.06072, section
2.2, and diffusers 0.35 `models/embeddings.py` (which axis owns which channels).

Shapes: B batch, D width, H head size; t, h, w the patch grid; L = t * h * w video tokens.
"""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def _sin_cos(positions: np.ndarray, channels: int) -> np.ndarray:
    """[n] positions -> [n, channels]: the sines of every frequency, then the cosines."""
    frequencies = 1.0 / 10000 ** (np.arange(channels // 2, dtype=np.float64) / (channels / 2.0))
    angles = np.outer(positions, frequencies)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def over_grid(time_txA, height_hxB, width_wxC, order: str) -> Array:
    """Broadcasts three one-dimensional tables over the grid and joins them on channels, in `order`:
    [t*h*w, A+B+C]."""
    t, h, w = len(time_txA), len(height_hxB), len(width_wxC)
    tables = {
        "t": jnp.asarray(time_txA, jnp.float32)[:, None, None],
        "h": jnp.asarray(height_hxB, jnp.float32)[None, :, None],
        "w": jnp.asarray(width_wxC, jnp.float32)[None, None, :],
    }
    full = [jnp.broadcast_to(tables[axis], (t, h, w, tables[axis].shape[-1])) for axis in order]
    return jnp.concatenate(full, axis=-1).reshape(t * h * w, -1)


def sinusoidal_table(
    width: int, grid: tuple[int, int, int], spatial_scale: float, temporal_scale: float
) -> Float[Array, "L D"]:
    """The additive table of the 2B model: a quarter of the channels for time, the rest halved
    between w and h."""
    t, h, w = grid
    return over_grid(
        _sin_cos(np.arange(t) / temporal_scale, width // 4),
        _sin_cos(np.arange(h) / spatial_scale, 3 * width // 8),
        _sin_cos(np.arange(w) / spatial_scale, 3 * width // 8),
        "twh",
    )


def rotary_tables(
    head_size: int, grid: tuple[int, int, int], base_grid: tuple[int, int] | None
) -> tuple[Float[Array, "L H/2"], Float[Array, "L H/2"]]:
    """Cosine and sine per channel pair of the 5B model: a quarter of the head for time, three
    eighths each for h and w.

    Args:
      grid: (t, h, w) in patches.
      base_grid: the training resolution (h, w) in patches; positions are then those of `grid`
        fitted into it with the aspect ratio kept and centred. None: plain positions 0, 1, 2, ...
        (version 1.5).
    """
    t, h, w = grid
    if base_grid is None:
        rows, columns = np.arange(h, dtype=np.float64), np.arange(w, dtype=np.float64)
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
    return tuple(over_grid(*(wave(a) for a in angles), "thw") for wave in (np.cos, np.sin))


def fitted_region(
    grid: tuple[int, int], base: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Corners (top, left), (bottom, right) of `grid` scaled to fit inside `base`, centred; all in
    patches."""
    (h, w), (base_h, base_w) = grid, base
    if h / w > base_h / base_w:
        size = (base_h, int(round(base_h / h * w)))
    else:
        size = (int(round(base_w / w * h)), base_w)
    corner = tuple(int(round((b - s) / 2.0)) for b, s in zip(base, size, strict=True))
    return corner, (corner[0] + size[0], corner[1] + size[1])


def rotate(x_BxLxNxH: Array, rotary: tuple[Array, Array]) -> Array:
    """Rotates neighbouring channel pairs (0,1), (2,3), ... in float32; returns the type of the
    input."""
    cos_1xLx1xK, sin_1xLx1xK = (table[None, :, None, :] for table in rotary)
    pairs = x_BxLxNxH.astype(jnp.float32).reshape(*x_BxLxNxH.shape[:-1], -1, 2)
    a, b = pairs[..., 0], pairs[..., 1]
    turned = jnp.stack(
        [a * cos_1xLx1xK - b * sin_1xLx1xK, b * cos_1xLx1xK + a * sin_1xLx1xK], axis=-1
    )
    return turned.reshape(x_BxLxNxH.shape).astype(x_BxLxNxH.dtype)


def timestep_features(
    timesteps_B: Array, channels: int, cosine_first: bool = True, shift: float = 0.0
) -> Float[Array, "B channels"]:
    """Sinusoids of the training timestep (Vaswani et al. 2017, section 3.5), float32."""
    half = channels // 2
    frequencies = np.exp(
        -math.log(10000) * np.arange(half, dtype=np.float32) / (half - shift)
    ).astype(np.float32)
    angles = timesteps_B.astype(jnp.float32)[:, None] * frequencies[None, :]
    waves = (
        [jnp.cos(angles), jnp.sin(angles)] if cosine_first else [jnp.sin(angles), jnp.cos(angles)]
    )
    return jnp.pad(jnp.concatenate(waves, axis=-1), ((0, 0), (0, channels % 2)))
