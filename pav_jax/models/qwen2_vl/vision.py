"""Qwen2-VL's vision tower: a transformer on patches of two frames, with 2-D rotary positions.

Patches of one pair of frames attend to each other; pairs are independent. At the end, squares of
2 x 2 patches are merged into one vector. Source: Wang et al. 2024 (arXiv 2409.12191), section 2.1;
transformers' `Qwen2VisionTransformerPretrainedModel`.

Shapes: N pairs of frames, t frames of a patch, H, W pixels, C colours, h, w patches, P = h w in the
order of squares, M = P / 4 vectors, D width, O width of the language model, A heads, K size of one.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pav_jax.models.layers import ACTIVATIONS, Constrain, LayerNorm, rotate, scan_layers
from pav_jax.models.qwen2_vl.config import VisionConfig

NORM_EPSILON = 1e-6  # of all norms; no field of config.json
THETA = 10000.0  # base of the rotary wavelengths; no field of config.json


@functools.cache
def patch_positions(h: int, w: int, merge: int) -> Int[np.ndarray, "P 2"]:
    """Return row and column of each patch, square by square."""
    rows, columns = np.mgrid[:h, :w]
    squares = np.stack([rows, columns], -1).reshape(h // merge, merge, w // merge, merge, 2)
    return squares.transpose(0, 2, 1, 3, 4).reshape(h * w, 2).astype(np.int32)


def rotary_tables(h: int, w: int, merge: int, head_dim: int) -> tuple[Array, Array]:
    """Return cos and sin of the angles, each [1, P, 1, K/2]: a quarter of the features turns with
    the row of a patch, another with its column."""
    quarter = head_dim // 4
    frequencies = 1.0 / THETA ** (jnp.arange(quarter, dtype=jnp.float32) / quarter)
    positions_Px2 = jnp.asarray(patch_positions(h, w, merge), jnp.float32)
    angles = (positions_Px2[:, :, None] * frequencies).reshape(1, h * w, 1, 2 * quarter)
    return jnp.cos(angles), jnp.sin(angles)


def patchify(
    frames_NxtxHxWxC: Float[Array, "N t H W C"], patch: int, merge: int
) -> Float[Array, "N P F"]:
    """Return the pixels of each patch, square by square."""
    n, t, height, width, c = frames_NxtxHxWxC.shape
    h, w = height // patch, width // patch
    x = frames_NxtxHxWxC.reshape(n, t, h // merge, merge, patch, w // merge, merge, patch, c)
    return x.transpose(0, 2, 5, 3, 6, 1, 4, 7, 8).reshape(n, h * w, t * patch * patch * c)


class VisionAttention(nn.Module):
    """Attention of all patches to all, with rotary positions."""

    config: VisionConfig
    dtype: Any
    attention_fn: Callable

    @nn.compact
    def __call__(self, x_NxPxD, rotary):
        c = self.config
        n, p, d = x_NxPxD.shape

        def project(name: str) -> Array:
            y = nn.Dense(d, dtype=self.dtype, name=name)(x_NxPxD)
            return y.reshape(n, p, c.heads, d // c.heads)

        q, k, v = project("q_proj"), project("k_proj"), project("v_proj")
        out = self.attention_fn(rotate(q, rotary), rotate(k, rotary), v)
        return nn.Dense(d, dtype=self.dtype, name="out_proj")(out.reshape(n, p, d))


class VisionBlock(nn.Module):
    """One layer: (x, rotary) -> (x, None)."""

    config: VisionConfig
    dtype: Any
    attention_fn: Callable

    @nn.compact
    def __call__(self, x_NxPxD, rotary):
        c = self.config
        norm = functools.partial(LayerNorm, NORM_EPSILON, dtype=self.dtype)
        attention = VisionAttention(c, self.dtype, self.attention_fn, name="attention")
        x_NxPxD = x_NxPxD + attention(norm(name="norm1")(x_NxPxD), rotary)
        y = nn.Dense(c.mlp_ratio * c.width, dtype=self.dtype, name="fc1")(
            norm(name="norm2")(x_NxPxD)
        )
        y = nn.Dense(c.width, dtype=self.dtype, name="fc2")(ACTIVATIONS[c.activation](y))
        return x_NxPxD + y, None


class VisionTower(nn.Module):
    """Normalized frames to vectors for the language model.

    Both sides of a frame are multiples of `patch_size * merge_size` pixels.
    """

    config: VisionConfig
    dtype: Any
    attention_fn: Callable
    unroll: bool
    constrain: Constrain

    @nn.compact
    def __call__(self, frames_NxtxHxWxC: Float[Array, "N t H W C"]) -> Float[Array, "N M O"]:
        c = self.config
        p, m = c.patch_size, c.merge_size
        n, t, height, width, channels = frames_NxtxHxWxC.shape
        kernel = self.param(
            "patch_embedding", nn.initializers.normal(0.02), (t, p, p, channels, c.width)
        )
        # Patches do not overlap, so the convolution is one matrix product over flattened patches.
        x_NxPxF = patchify(frames_NxtxHxWxC.astype(self.dtype), p, m)
        x_NxPxD = x_NxPxF @ kernel.reshape(-1, c.width).astype(self.dtype)
        x_NxPxD = self.constrain(x_NxPxD, ("batch", None, None))
        rotary = rotary_tables(height // p, width // p, m, c.width // c.heads)
        layers = scan_layers(VisionBlock, c.layers, c.layers if self.unroll else 1)
        x_NxPxD, _ = layers(c, self.dtype, self.attention_fn, name="layers")(x_NxPxD, rotary)
        x_NxPxD = LayerNorm(NORM_EPSILON, dtype=self.dtype, name="final_norm")(x_NxPxD)
        merged = x_NxPxD.reshape(n, -1, m * m * c.width)
        merged = nn.Dense(m * m * c.width, dtype=self.dtype, name="merge1")(merged)
        merged = jax.nn.gelu(merged, approximate=False)
        return nn.Dense(c.out_width, dtype=self.dtype, name="merge2")(merged)
