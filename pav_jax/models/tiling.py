"""Decode a latent in overlapping spatial tiles, so that memory does not grow with the video's size.

Layers see one tile at a time, so the result differs from that of the whole frame. It equals that of
diffusers' autoencoders after `enable_tiling()`, whose order of blending it follows.

Letters: B clips, T frames, H and W pixels, C channels; t, h, w the same axes in latent space; n
tiles.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


@dataclasses.dataclass(frozen=True)
class TiledAxis:
    """How one spatial axis is divided into tiles.

    Attributes:
      tile: latent rows of a tile.
      step: latent rows from one tile's start to the next.
      blend: rows of the decoder's output over which a tile is blended with the next one.
      keep: rows of a tile in the output; the rows after them come from the next tile.
    """

    tile: int
    step: int
    blend: int
    keep: int

    def spans(self, size: int) -> list[tuple[int, int]]:
        """Return [start, stop) of each tile of an axis of `size` latent rows."""
        return [(start, min(start + self.tile, size)) for start in range(0, size, self.step)]


@dataclasses.dataclass(frozen=True)
class TileGrid:
    """The tiles of latents of one size.

    Attributes:
      rows, columns: how the two axes are divided.
      height, width: latent rows and columns.
    """

    rows: TiledAxis
    columns: TiledAxis
    height: int
    width: int

    def is_single(self) -> bool:
        """Return whether the latents are no larger than one tile."""
        return self.height <= self.rows.tile and self.width <= self.columns.tile

    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Return the sizes of tiles in latent rows and columns, the largest first."""
        heights = {stop - start for start, stop in self.rows.spans(self.height)}
        widths = {stop - start for start, stop in self.columns.spans(self.width)}
        sizes = [(height, width) for height in heights for width in widths]
        return tuple(sorted(sizes, key=lambda size: (size[0] * size[1], size), reverse=True))

    def positions(self, size: tuple[int, int]) -> list[tuple[int, int]]:
        """Return (row, column) in the grid of each tile of `size`."""
        return [
            (i, j)
            for i, (top, bottom) in enumerate(self.rows.spans(self.height))
            for j, (left, right) in enumerate(self.columns.spans(self.width))
            if (bottom - top, right - left) == size
        ]

    def cut(
        self, z: Float[Array, "B t height width C"], size: tuple[int, int]
    ) -> Float[Array, "n B t h w C"]:
        """Return the tiles of `size`, in the order of `positions`."""
        rows = [slice(*span) for span in self.rows.spans(self.height)]
        columns = [slice(*span) for span in self.columns.spans(self.width)]
        return jnp.stack([z[:, :, rows[i], columns[j]] for i, j in self.positions(size)])

    def join(self, decoded: Sequence[Sequence[Sequence[Array]]]) -> Float[Array, "B T H W C"]:
        """Blend each tile with the one above, then with the one to its left, and join them.

        Both neighbours are taken as already blended.

        Args:
          decoded: result of `decode_tiles`.

        Returns:
          The decoder's output for whole frames, float32.
        """
        tiles: dict[tuple[int, int], Array] = {}
        for size, batches in zip(self.sizes(), decoded, strict=True):
            positions = self.positions(size)
            # not concatenated, which would mix clips of several devices
            frames = jnp.stack([jnp.concatenate(chunks, axis=1) for chunks in batches])
            frames = frames.astype(jnp.float32).reshape(len(positions), -1, *frames.shape[2:])
            tiles |= dict(zip(positions, frames, strict=True))
        blended: dict[tuple[int, int], Array] = {}
        lines = []
        for i in range(len(self.rows.spans(self.height))):
            line = []
            for j in range(len(self.columns.spans(self.width))):
                tile = tiles[i, j]
                tile = blend(blended[i - 1, j], tile, self.rows.blend, axis=2) if i else tile
                tile = blend(blended[i, j - 1], tile, self.columns.blend, axis=3) if j else tile
                blended[i, j] = tile
                line.append(tile[:, :, : self.rows.keep, : self.columns.keep])
            lines.append(jnp.concatenate(line, axis=3))
        return jnp.concatenate(lines, axis=2)


def decode_tiles(
    decode_level: Callable[..., tuple[Array, Any]],
    num_batches: Mapping[tuple[int, int], int],
    chunks: Sequence[tuple[int, int]],
    num_levels: int,
) -> list[list[list[Array]]]:
    """Decode the tiles of all sizes, batch after batch, each chunk after chunk.

    Args:
      decode_level: (x, batch, start, cache, size=, length=, level=) -> (output, next chunk's
        cache): decodes `length` latent frames from `start` of one batch of tiles of `size` at one
        resolution. `x` is the preceding level's output, None at level 0; `cache` is empty for the
        first chunk.
      num_batches: size of tiles -> number of batches.
      chunks: [start, stop) of each temporal chunk in latent frames.
      num_levels: number of resolutions; the output of the last one are the frames.

    Returns:
      For each size, batch and chunk the frames.
    """
    decoded = []
    for size, count in num_batches.items():
        batches = []
        for batch in range(count):
            caches: list[Any] = [{} for _ in range(num_levels)]
            frames = []
            for start, stop in chunks:
                static: dict[str, Any] = dict(size=size, length=stop - start)
                x = None
                for level, cache in enumerate(caches):
                    x, caches[level] = decode_level(x, batch, start, cache, level=level, **static)
                frames.append(x)
            batches.append(frames)
        decoded.append(batches)
    return decoded


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
