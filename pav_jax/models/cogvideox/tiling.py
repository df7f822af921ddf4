"""Decoding a latent in overlapping spatial tiles, so that memory does not grow with the picture.

Group norms see one tile at a time, so the result is not that of the whole picture: it is what
diffusers' AutoencoderKLCogVideoX gives after `enable_tiling()`, whose sizes and order of blending
this follows.

Axis letters: B clips, T frames, H and W pixels, C channels, t/h/w the same axes in latent space.
"""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# the share of a tile that it has in common with the next one; chosen in diffusers for 480 x 720
OVERLAP_HEIGHT, OVERLAP_WIDTH = 1 / 6, 1 / 5


@dataclasses.dataclass(frozen=True)
class Cut:
    """How one spatial axis is cut.

    Attributes:
      tile, step: latent rows of a tile, and from one tile's start to the next.
      blend: pixel rows over which a tile fades into the next.
      keep: pixel rows of a tile that stay; what lies beyond is the next one's.
    """

    tile: int
    step: int
    blend: int
    keep: int

    @classmethod
    def of(cls, sample: int, ratio: int, overlap: float) -> "Cut":
        """`sample`: the axis' size in pixels of the videos the VAE was trained on; a tile is half
        of it."""
        pixels = sample // 2
        tile, blend = int(pixels / ratio), int(pixels * overlap)
        return cls(tile, max(int(tile * (1 - overlap)), 1), blend, pixels - blend)

    def spans(self, size: int) -> list[tuple[int, int]]:
        """[start, stop) of each tile of an axis of `size` latent rows."""
        return [(start, min(start + self.tile, size)) for start in range(0, size, self.step)]


def decode_tiles(
    decode: Callable[[Float[Array, "n B t h w C"]], Float[Array, "n B T H W 3"]],
    z: Float[Array, "B t h w C"],
    rows: Cut,
    columns: Cut,
) -> Float[Array, "B T H W 3"]:
    """Cuts, decodes and joins.

    Args:
      decode: decodes n tiles of one size, each on its own.
    """
    height, width = rows.spans(z.shape[2]), columns.spans(z.shape[3])
    same_size: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for i, (top, bottom) in enumerate(height):
        for j, (left, right) in enumerate(width):
            same_size.setdefault((bottom - top, right - left), []).append((i, j))
    tiles = {}
    for places in same_size.values():
        cut = [z[:, :, slice(*height[i]), slice(*width[j])] for i, j in places]
        tiles |= dict(zip(places, decode(jnp.stack(cut)), strict=True))
    return join(tiles, len(height), len(width), rows, columns)


def join(
    tiles: dict[tuple[int, int], Array], height: int, width: int, rows: Cut, columns: Cut
) -> Array:
    """Fades each tile into the one above, then into the one on its left, both as already blended,
    and cuts it off."""
    blended: dict[tuple[int, int], Array] = {}
    lines = []
    for i in range(height):
        line = []
        for j in range(width):
            tile = tiles[i, j]
            tile = fade(blended[i - 1, j], tile, rows.blend, axis=2) if i else tile
            tile = fade(blended[i, j - 1], tile, columns.blend, axis=3) if j else tile
            blended[i, j] = tile
            line.append(tile[:, :, : rows.keep, : columns.keep])
        lines.append(jnp.concatenate(line, axis=3))
    return jnp.concatenate(lines, axis=2)


def fade(before: Array, tile: Array, extent: int, axis: int) -> Array:
    """`tile` with its first `extent` rows of `axis` mixed linearly with the last ones of
    `before`."""
    extent = min(before.shape[axis], tile.shape[axis], extent)
    if not extent:
        return tile
    shape = [1] * tile.ndim
    shape[axis] = extent
    share = jnp.asarray((np.arange(extent) / extent).astype(np.float32).reshape(shape))
    old = jnp.take(before, np.arange(before.shape[axis] - extent, before.shape[axis]), axis=axis)
    new, rest = jnp.split(tile, [extent], axis=axis)
    return jnp.concatenate([old * (1 - share) + new * share, rest], axis=axis)
