"""The configuration of Wan's autoencoders."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array

from pav_jax.models.tiling import TiledAxis, TileGrid
from pav_jax.typed_fields import Depth, Positive, Widths

# of tiles, in pixels, as in diffusers' `AutoencoderKLWan`
TILE = 256
TILE_STEP = 192


@dataclasses.dataclass(frozen=True)
class WanVAEConfig:
    """Configuration with diffusers' field names; defaults: Wan 2.1, 1.3B and 14B.

    Attributes:
      decoder_base_dim: None means `base_dim`.
      temperal_downsample: whether each resampling halves the frames; diffusers' spelling.
      is_residual: the autoencoder of Wan 2.2 TI2V-5B, whose stages have shortcuts.
      in_channels, out_channels: of the patches of pixels.
      patch_size: rows and columns of such a patch; None: pixels.
    """

    base_dim: int = 96
    decoder_base_dim: int | None = None
    z_dim: int = 16
    dim_mult: Widths = (1, 2, 4, 4)
    num_res_blocks: Depth = 2
    temperal_downsample: tuple[bool, ...] = (False, True, True)
    latents_mean: tuple[float, ...] = (
        -0.7571,
        -0.7089,
        -0.9113,
        0.1075,
        -0.1745,
        0.9653,
        -0.1517,
        1.5508,
        0.4134,
        -0.0715,
        0.5517,
        -0.3632,
        -0.1922,
        -0.9497,
        0.2503,
        -0.2921,
    )
    latents_std: tuple[Positive, ...] = (
        2.8184,
        1.4541,
        2.3275,
        2.6558,
        1.2196,
        1.7708,
        2.6052,
        2.0743,
        3.2687,
        2.1526,
        2.8652,
        1.5579,
        1.6382,
        1.1253,
        2.8251,
        1.9160,
    )
    is_residual: bool = False
    in_channels: int = 3
    out_channels: int = 3
    patch_size: int | None = None

    @property
    def patch(self) -> int:
        """Rows and columns of a patch of pixels; 1 without patches."""
        return self.patch_size or 1

    @property
    def spatial_ratio(self) -> int:
        """Pixels per latent row and column."""
        return self.patch * 2 ** (len(self.dim_mult) - 1)

    @property
    def temporal_ratio(self) -> int:
        """Frames per latent frame, except for the first one."""
        return 2 ** sum(self.temperal_downsample)

    def scale(self, latents: Array) -> Array:
        """Scale the encoder's output for the denoiser."""
        return (latents - jnp.asarray(self.latents_mean)) / jnp.asarray(self.latents_std)

    def unscale(self, latents: Array) -> Array:
        """Scale the denoiser's output for the decoder."""
        return latents * jnp.asarray(self.latents_std) + jnp.asarray(self.latents_mean)

    def tile_grid(self, height: int, width: int) -> TileGrid:
        """Return the tiles of latents with so many rows and columns."""
        ratio = self.spatial_ratio
        keep = TILE_STEP // self.patch
        blend = TILE // self.patch - keep
        axis = TiledAxis(max(TILE // ratio, 1), max(TILE_STEP // ratio, 1), blend, keep)
        return TileGrid(axis, axis, height, width)
