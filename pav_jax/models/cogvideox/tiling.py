"""Decode a latent in overlapping spatial tiles, so that memory does not grow with the video's size.

Group norms see one tile at a time, so the result differs from that of the whole frame. It equals
that of diffusers' `AutoencoderKLCogVideoX` after `enable_tiling()`, whose sizes and order of
blending it follows.

Letters: B clips, T frames, H and W pixels, C channels; t, h, w the same axes in latent space; n
tiles.
"""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# overlap of neighbouring tiles as a fraction of a tile; diffusers chose it for 480 x 720
OVERLAP_HEIGHT = 1 / 6
OVERLAP_WIDTH = 1 / 5


@dataclasses.dataclass(frozen=True)
class TiledAxis:
    """How one spatial axis is divided into tiles.

    Attributes:
      tile: latent rows of a tile.
      step: latent rows from one tile's start to the next.
      blend: pixel rows over which a tile is blended with the next one.
      keep: pixel rows of a tile in the output; the rows after them come from the next tile.
    """

    tile: int
    step: int
    blend: int
    keep: int

    @classmethod
    def for_size(cls, sample: int, ratio: int, overlap: float) -> "TiledAxis":
        """Return the division for a VAE; a tile is half of the size it was trained on.

        Args:
          sample: size of the axis in the training videos, in pixels.
          ratio: pixels per latent row.
          overlap: of neighbouring tiles, as a fraction of a tile.
        """
        pixels = sample // 2
        tile = int(pixels / ratio)
        blend = int(pixels * overlap)
        return cls(tile, max(int(tile * (1 - overlap)), 1), blend, pixels - blend)

    def spans(self, size: int) -> list[tuple[int, int]]:
        """Return [start, stop) of each tile of an axis of `size` latent rows."""
        return [(start, min(start + self.tile, size)) for start in range(0, size, self.step)]


def decode_tiles(
    decode: Callable[[Float[Array, "n B t h w C"]], Float[Array, "n B T H W 3"]],
    z: Float[Array, "B t h w C"],
    rows: TiledAxis,
    columns: TiledAxis,
) -> Float[Array, "B T H W 3"]:
    """Cut `z` into tiles, decode them and join the results.

    Args:
      decode: decodes n tiles of one size independently.
    """
    row_spans = rows.spans(z.shape[2])
    column_spans = columns.spans(z.shape[3])
    positions_by_size: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for i, (top, bottom) in enumerate(row_spans):
        for j, (left, right) in enumerate(column_spans):
            positions_by_size.setdefault((bottom - top, right - left), []).append((i, j))
    tiles = {}
    for positions in positions_by_size.values():
        cut = [z[:, :, slice(*row_spans[i]), slice(*column_spans[j])] for i, j in positions]
        tiles |= dict(zip(positions, decode(jnp.stack(cut)), strict=True))
    return join_tiles(tiles, len(row_spans), len(column_spans), rows, columns)


def join_tiles(
    tiles: dict[tuple[int, int], Array],
    num_rows: int,
    num_columns: int,
    rows: TiledAxis,
    columns: TiledAxis,
) -> Float[Array, "B T H W 3"]:
    """Blend each tile with the one above, then with the one to its left, and join them.

    Both neighbours are taken as already blended.

    Args:
      tiles: decoded tile by (row, column).
    """
    blended: dict[tuple[int, int], Array] = {}
    lines = []
    for i in range(num_rows):
        line = []
        for j in range(num_columns):
            tile = tiles[i, j]
            tile = blend(blended[i - 1, j], tile, rows.blend, axis=2) if i else tile
            tile = blend(blended[i, j - 1], tile, columns.blend, axis=3) if j else tile
            blended[i, j] = tile
            line.append(tile[:, :, : rows.keep, : columns.keep])
        lines.append(jnp.concatenate(line, axis=3))
    return jnp.concatenate(lines, axis=2)


def blend(before: Array, tile: Array, extent: int, axis: int) -> Array:
    """Mix the first `extent` rows of `tile` linearly with the last `extent` rows of `before`."""
    extent = min(before.shape[axis], tile.shape[axis], extent)
    if not extent:
        return tile
    shape = [1] * tile.ndim
    shape[axis] = extent
    share = jnp.asarray((np.arange(extent) / extent).astype(np.float32).reshape(shape))
    old = jnp.take(before, np.arange(before.shape[axis] - extent, before.shape[axis]), axis=axis)
    new, rest = jnp.split(tile, [extent], axis=axis)
    return jnp.concatenate([old * (1 - share) + new * share, rest], axis=axis)
