"""Idefics2's vision tower: SigLIP (Zhai et al. 2023, arXiv 2303.15343) for pictures of any size and
shape.

Nothing is resized to a square. A picture is cut into as many whole patches as it has, and the
learned square grid of positions is read at the place a patch has within its own picture, as a
fraction of it (fractional positions of NaViT, Dehghani et al. 2023, arXiv 2307.06304). Pictures of
one batch are padded, and padding is masked.

Shapes: N images, H W pixels, C colours, h w patches, P = h w, D width.
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

from pav_jax.models.clip.model import run_layers
from pav_jax.models.layers import LayerNorm


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """Sizes of the tower; defaults: SigLIP-SO400M as Idefics2-8B has it. `image_size` and
    `patch_size` are in pixels; together they give the side of the learned grid of positions."""

    width: int = 1152
    ff_width: int = 4304
    layers: int = 27
    heads: int = 16
    channels: int = 3
    image_size: int = 980
    patch_size: int = 14
    activation: str = "gelu_pytorch_tanh"
    norm_epsilon: float = 1e-6

    @property
    def side(self) -> int:
        return self.image_size // self.patch_size


def patch_mask(pixels_NxHxW: Bool[Array, "N H W"], patch_size: int) -> Bool[Array, "N h w"]:
    """Which patches are wholly picture: the rule of transformers 5. (Older code also took patches
    that are partly padding; without padding between pictures of different sizes there are none.)"""
    n, height, width = pixels_NxHxW.shape
    h, w = height // patch_size, width // patch_size
    whole = pixels_NxHxW[:, : h * patch_size, : w * patch_size]
    return whole.reshape(n, h, patch_size, w, patch_size).all(axis=(2, 4))


@functools.cache
def bucket_table(longest: int, side: int) -> Int[np.ndarray, "n i"]:
    """[longest + 1, longest]: for a picture that is n patches long, which of `side` positions patch
    i takes.

    A table, because patch i = n / side * k lies exactly between two positions: float32 rounding
    decides there, and a compiler may round otherwise than the original, which takes i * (1 / n)
    against bounds 1 / side + k / side.
    """
    step = np.float32(1) / np.maximum(np.arange(longest + 1), 1).astype(np.float32)
    places = np.minimum(np.arange(longest, dtype=np.float32) * step[:, None], np.float32(1 - 1e-6))
    first = 1 / side
    bounds = (first + first * np.arange(math.ceil((1 - first) / first))).astype(np.float32)
    return np.searchsorted(bounds, places, side="right").astype(np.int32)


def position_ids(patches_Nxhxw: Bool[Array, "N h w"], side: int) -> Int[Array, "N P"]:
    """Index of each patch's position among the side x side learned ones; 0 for padding."""
    n, h, w = patches_Nxhxw.shape
    rows_Nxh = jnp.asarray(bucket_table(h, side))[patches_Nxhxw[:, :, 0].sum(1)]
    columns_Nxw = jnp.asarray(bucket_table(w, side))[patches_Nxhxw[:, 0].sum(1)]
    ids_Nxhxw = rows_Nxh[:, :, None] * side + columns_Nxw[:, None]
    return jnp.where(patches_Nxhxw, ids_Nxhxw, 0).reshape(n, h * w)


class VisionTower(nn.Module):
    """Normalised pixels to one vector per patch, after the last norm; those of padding mean
    nothing."""

    config: VisionConfig
    dtype: Any
    attention_fn: Callable
    unroll: bool
    constrain: Callable

    @nn.compact
    def __call__(
        self, pixels_NxHxWxC: Float[Array, "N H W C"], patches_Nxhxw: Bool[Array, "N h w"]
    ) -> Float[Array, "N P D"]:
        c, p, (n, h, w) = self.config, self.config.patch_size, patches_Nxhxw.shape
        kernel = self.param(
            "patch_embedding", nn.initializers.normal(0.02), (p, p, c.channels, c.width)
        )
        bias_D = self.param("patch_bias", nn.initializers.zeros, (c.width,))
        positions = self.param(
            "position_embedding", nn.initializers.normal(0.02), (c.side**2, c.width)
        )
        # Patches do not overlap, so the convolution is one matrix product over flattened patches.
        x = (
            pixels_NxHxWxC[:, : h * p, : w * p]
            .astype(self.dtype)
            .reshape(n, h, p, w, p, c.channels)
        )
        x = x.transpose(0, 1, 3, 2, 4, 5).reshape(n, h * w, -1)
        x_NxPxD = x @ kernel.reshape(-1, c.width).astype(self.dtype) + bias_D.astype(self.dtype)
        x_NxPxD += positions.astype(self.dtype)[position_ids(patches_Nxhxw, c.side)]
        x_NxPxD = self.constrain(x_NxPxD, ("batch", None, None))
        mask = patches_Nxhxw.reshape(n, 1, 1, h * w)
        x_NxPxD = run_layers(c, self.dtype, self.attention_fn, False, self.unroll, x_NxPxD, mask)
        return LayerNorm(c.norm_epsilon, dtype=self.dtype, name="final_norm")(x_NxPxD)
