"""Sizes of CogVideoX's autoencoder: channels, temporal chunks and tiles. See `vae`."""

import dataclasses
import math
from typing import Annotated

from jaxtyping import Array

from pav_jax.models.tiling import TiledAxis, TileGrid
from pav_jax.typed_fields import Depth, NonNegative, Positive, Range, Widths

ENCODE_CHUNK = 8  # frames per chunk (diffusers: num_sample_frames_batch_size)
DECODE_CHUNK = 2  # latent frames per chunk (diffusers: num_latent_frames_batch_size)
# overlap of neighbouring tiles as a fraction of a tile; diffusers chose it for 480 x 720
OVERLAP_HEIGHT = 1 / 6
OVERLAP_WIDTH = 1 / 5


@dataclasses.dataclass(frozen=True)
class CogVideoXVAEConfig:
    """Configuration with diffusers' field names; defaults: CogVideoX-2B."""

    in_channels: int = 3
    out_channels: int = 3
    block_out_channels: Widths = (128, 256, 256, 512)
    latent_channels: int = 16
    layers_per_block: Depth = 3
    act_fn: str = "silu"
    norm_eps: NonNegative = 1e-6
    norm_num_groups: int = 32
    temporal_compression_ratio: Annotated[float, Range(1, 2**16)] = 4
    sample_height: int = 480
    sample_width: int = 720
    scaling_factor: Positive = 1.15258426
    shift_factor: float | None = None
    latents_mean: tuple[float, ...] | None = None
    latents_std: tuple[Positive, ...] | None = None
    force_upcast: bool = True
    use_quant_conv: bool = False
    use_post_quant_conv: bool = False
    invert_scale_latents: bool = False

    @property
    def temporal_levels(self) -> int:
        """Number of blocks that halve the frames: log2 of the temporal ratio, at most all."""
        levels = int(math.log2(self.temporal_compression_ratio))
        return min(levels, self.num_levels - 1)

    @property
    def num_levels(self) -> int:
        """Number of resolutions."""
        return len(self.block_out_channels)

    @property
    def spatial_ratio(self) -> int:
        """Pixels per latent row and column."""
        return 2 ** (self.num_levels - 1)

    def tiled_axes(self) -> tuple[TiledAxis, TiledAxis]:
        """Return how a latent's rows and columns are divided into tiles."""
        return (
            tiled_axis(self.sample_height, self.spatial_ratio, OVERLAP_HEIGHT),
            tiled_axis(self.sample_width, self.spatial_ratio, OVERLAP_WIDTH),
        )

    def tile_grid(self, height: int, width: int) -> TileGrid:
        """Return the tiles of latents with so many rows and columns."""
        return TileGrid(*self.tiled_axes(), height, width)

    def latent_frames(self, frames: int) -> int:
        """Return the number of latent frames of a clip of `frames` frames, encoded in chunks."""
        count = 0
        for start, stop in chunk_bounds(frames, ENCODE_CHUNK):
            chunk = stop - start
            for _ in range(self.temporal_levels):
                chunk = (chunk + 1) // 2
            count += chunk
        return count

    def scale(self, latents: Array) -> Array:
        """Scale the encoder's output for the denoiser.

        Image-to-video models divide instead of multiplying (`invert_scale_latents`).
        """
        if self.invert_scale_latents:
            return latents / self.scaling_factor
        return latents * self.scaling_factor

    def unscale(self, latents: Array) -> Array:
        """Scale the denoiser's output for the decoder.

        diffusers' pipeline always divides here, whatever `invert_scale_latents` says.
        """
        return latents / self.scaling_factor


def tiled_axis(sample: int, ratio: int, overlap: float) -> TiledAxis:
    """Return how an axis is divided into tiles of half the size the VAE was trained on.

    Args:
      sample: size of the axis in the training videos, in pixels.
      ratio: pixels per latent row.
      overlap: of neighbouring tiles, as a fraction of a tile.
    """
    pixels = sample // 2
    tile = int(pixels / ratio)
    blend = int(pixels * overlap)
    return TiledAxis(tile, max(int(tile * (1 - overlap)), 1), blend, pixels - blend)


def chunk_bounds(frames: int, size: int) -> list[tuple[int, int]]:
    """Return [start, stop) of each temporal chunk; the remainder joins the first one."""
    count = max(frames // size, 1)
    remainder = frames % size
    stops = [min(size * (i + 1) + remainder, frames) for i in range(count)]
    return list(zip([0, *stops[:-1]], stops, strict=True))


def decoder_chunks(latent_frames: int) -> list[tuple[int, int]]:
    """Return [start, stop) of each chunk that the decoder takes."""
    return chunk_bounds(latent_frames, DECODE_CHUNK)
