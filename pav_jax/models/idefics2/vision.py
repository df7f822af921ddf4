"""Idefics2's vision tower: SigLIP for images of any size and shape.

Images are not resized to squares. An image is divided into as many whole patches as it has, and the
learned square grid of positions is indexed by a patch's relative position within its image. Images
of one batch are padded, and padding is masked.

Sources: SigLIP, Zhai et al. 2023 (arXiv 2303.15343); fractional positions: NaViT, Dehghani et al.
2023 (arXiv 2307.06304); transformers' `Idefics2VisionTransformer`.

Shapes: N images, H, W pixels, C colours, h, w patches, P = h w, D width.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from pav_jax.models.clip.model import scan_tower
from pav_jax.models.layers import Constrain, LayerNorm
from pav_jax.typed_fields import Depth, NonNegative


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """Sizes of the tower; defaults: SigLIP-SO400M as in Idefics2-8B.

    Attributes:
      image_size, patch_size: in pixels; their ratio is the side of the learned grid of positions.
    """

    width: int = 1152
    ff_width: int = 4304
    layers: Depth = 27
    heads: int = 16
    channels: int = 3
    image_size: int = 980
    patch_size: int = 14
    activation: str = "gelu_pytorch_tanh"
    norm_epsilon: NonNegative = 1e-6

    @property
    def side(self) -> int:
        """Height and width of the learned grid of positions."""
        return self.image_size // self.patch_size


def patch_mask(pixels_NxHxW: Bool[Array, "N H W"], patch_size: int) -> Bool[Array, "N h w"]:
    """Return which patches have no padding, as in transformers 5.

    Older versions also took patches that are partly padding; they differ only if images of
    different sizes are padded.

    Args:
      pixels_NxHxW: True = image, False = padding.
    """
    n, height, width = pixels_NxHxW.shape
    h = height // patch_size
    w = width // patch_size
    whole = pixels_NxHxW[:, : h * patch_size, : w * patch_size]
    return whole.reshape(n, h, patch_size, w, patch_size).all(axis=(2, 4))


@functools.cache
def bucket_table(longest: int, side: int) -> Int[np.ndarray, "n i"]:
    """Return [n, i]: which of `side` positions patch i takes in an image that is n patches long.

    It is a table because patch i = n / side * k lies exactly between two positions, where float32
    rounding decides. A compiler may round differently from the original, which compares i * (1 / n)
    with the bounds 1 / side + k / side.
    """
    step = np.float32(1) / np.maximum(np.arange(longest + 1), 1).astype(np.float32)
    fractions = np.minimum(
        np.arange(longest, dtype=np.float32) * step[:, None], np.float32(1 - 1e-6)
    )
    first = 1 / side
    bounds = (first + first * np.arange(math.ceil((1 - first) / first))).astype(np.float32)
    return np.searchsorted(bounds, fractions, side="right").astype(np.int32)


def position_ids(patches_Nxhxw: Bool[Array, "N h w"], side: int) -> Int[Array, "N P"]:
    """Return each patch's index into the side x side learned positions; 0 for padding."""
    n, h, w = patches_Nxhxw.shape
    rows_Nxh = jnp.asarray(bucket_table(h, side))[patches_Nxhxw[:, :, 0].sum(1)]
    columns_Nxw = jnp.asarray(bucket_table(w, side))[patches_Nxhxw[:, 0].sum(1)]
    ids_Nxhxw = rows_Nxh[:, :, None] * side + columns_Nxw[:, None]
    return jnp.where(patches_Nxhxw, ids_Nxhxw, 0).reshape(n, h * w)


class VisionTower(nn.Module):
    """Normalized pixels to one vector per patch, after the last norm; undefined at padding."""

    config: VisionConfig
    dtype: Any
    attention_fn: Callable
    unroll: bool
    constrain: Constrain

    @nn.compact
    def __call__(
        self, pixels_NxHxWxC: Float[Array, "N H W C"], patches_Nxhxw: Bool[Array, "N h w"]
    ) -> Float[Array, "N P D"]:
        c = self.config
        p = c.patch_size
        n, h, w = patches_Nxhxw.shape
        kernel = self.param(
            "patch_embedding", nn.initializers.normal(0.02), (p, p, c.channels, c.width)
        )
        bias_D = self.param("patch_bias", nn.initializers.zeros, (c.width,))
        positions = self.param(
            "position_embedding", nn.initializers.normal(0.02), (c.side**2, c.width)
        )
        # Patches do not overlap, so the convolution is one matrix product over flattened patches.
        x = pixels_NxHxWxC[:, : h * p, : w * p].astype(self.dtype)
        x = x.reshape(n, h, p, w, p, c.channels)
        x = x.transpose(0, 1, 3, 2, 4, 5).reshape(n, h * w, -1)
        x_NxPxD = x @ kernel.reshape(-1, c.width).astype(self.dtype) + bias_D.astype(self.dtype)
        x_NxPxD += positions.astype(self.dtype)[position_ids(patches_Nxhxw, c.side)]
        x_NxPxD = self.constrain(x_NxPxD, ("batch", None, None))
        mask = patches_Nxhxw.reshape(n, 1, 1, h * w)
        layers = scan_tower(c, remat=False, unroll=self.unroll)(
            c, self.dtype, self.attention_fn, name="layers"
        )
        x_NxPxD, _ = layers(x_NxPxD, mask)
        return LayerNorm(c.norm_epsilon, dtype=self.dtype, name="final_norm")(x_NxPxD)
