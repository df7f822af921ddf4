"""The Wan 2.1 denoiser: self-attention over video, cross-attention to text, timestep modulation.

Source: Wan Team 2025 (arXiv 2503.20314), section 4.2, and diffusers' `WanTransformer3DModel`: one
modulation for all blocks, to which each adds its own table; queries and keys RMS-normed across
heads; 3-D rotary positions; the text, zero at padding, is not masked.

Shapes: B batch, T, H, W latent frames, height, width, C channels, O output channels; S text tokens,
U text width, L video tokens, D width, N heads, K head size, P values of a patch.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pav_jax.models.attention.blockwise import Partial, blockwise_attention
from pav_jax.models.attention.dot_product import FirstKeys
from pav_jax.models.layers import (
    Constrain,
    LayerNorm,
    RMSNorm,
    gated_sum,
    scan_layers,
    unconstrained,
)
from pav_jax.models.video_positions import rotary_grid, rotate, timestep_features
from pav_jax.models.wan.text_blocks import TextBlocks, text_lengths
from pav_jax.typed_fields import Depth, NonNegative

TOKENS = ("batch", "length", None)  # logical axes of the residual stream
ZEROS = nn.initializers.zeros_init()


@dataclasses.dataclass(frozen=True)
class WanConfig:
    """Configuration with diffusers' field names and meanings; defaults: Wan 2.1 14B."""

    patch_size: tuple[int, int, int] = (1, 2, 2)
    num_attention_heads: int = 40
    attention_head_dim: int = 128
    in_channels: int = 16
    out_channels: int = 16
    text_dim: int = 4096
    freq_dim: int = 256
    ffn_dim: int = 13824
    num_layers: Depth = 40
    cross_attn_norm: bool = True
    eps: NonNegative = 1e-6
    rope_max_seq_len: int = 1024

    @property
    def width(self) -> int:
        """Features of a token."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def patch_volume(self) -> int:
        """Positions of the latent in a token."""
        return math.prod(self.patch_size)

    def grid(self, latent_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return the patch grid (t, h, w) of latents [T, H, W]."""
        frames, height, width = latent_shape
        pt, ph, pw = self.patch_size
        return frames // pt, height // ph, width // pw

    def rotary(
        self, latent_shape: tuple[int, int, int]
    ) -> tuple[Float[Array, "L K/2"], Float[Array, "L K/2"]]:
        """Return (cos, sin) of each pair of channels.

        A third of the head, rounded down to pairs, is for height, as much for width, the rest for
        time.
        """
        third = 2 * (self.attention_head_dim // 6)
        channels = (self.attention_head_dim - 2 * third, third, third)
        angles = [
            # float64, as in diffusers
            np.outer(np.arange(size), 1.0 / 10000.0 ** (np.arange(0, count, 2) / count))
            for size, count in zip(self.grid(latent_shape), channels, strict=True)
        ]
        return rotary_grid(angles)


class Attention(nn.Module):
    """Attention from video tokens to `context`: to themselves or to the text."""

    config: WanConfig
    dtype: Any
    attention_fn: Callable

    def setup(self) -> None:
        def dense() -> nn.Dense:
            return nn.Dense(self.config.width, dtype=self.dtype)

        self.q_proj = dense()
        self.k_proj = dense()
        self.v_proj = dense()
        self.o_proj = dense()
        self.q_norm = RMSNorm(self.config.eps, self.dtype)
        self.k_norm = RMSNorm(self.config.eps, self.dtype)

    def __call__(self, x_BxLxD, context: Array | TextBlocks, rotary=None, mask=None):
        q = self._heads(self.q_norm(self.q_proj(x_BxLxD)))
        if isinstance(context, TextBlocks):
            out = self._attend_to_blocks(q, context)
        else:
            k, v = self._keys_and_values(context)
            if rotary is not None:
                q = rotate(q, rotary)
                k = rotate(k, rotary)
            out = self.attention_fn(q, k, v, mask)
        return self.o_proj(out.reshape(x_BxLxD.shape))

    def _heads(self, x: Array) -> Array:
        config = self.config
        return x.reshape(*x.shape[:2], config.num_attention_heads, config.attention_head_dim)

    def _keys_and_values(self, context_BxSxD: Array) -> tuple[Array, Array]:
        k = self._heads(self.k_norm(self.k_proj(context_BxSxD)))
        return k, self._heads(self.v_proj(context_BxSxD))

    def _attend_to_blocks(self, q_BxLxNxK: Array, text: TextBlocks) -> Array:
        q_BxLxNxK = q_BxLxNxK * self.config.attention_head_dim**-0.5

        def add_block(module: "Attention", carry: tuple) -> tuple:
            index, partial = carry
            slots_BxsxD, bias = text.block(index)
            k, v = module._keys_and_values(slots_BxsxD)
            return index + 1, partial.with_keys(q_BxLxNxK, k, v, bias=bias)

        start = jnp.int32(0), Partial.empty(q_BxLxNxK)
        _, partial = nn.while_loop(
            lambda module, carry: carry[0] < text.num_blocks, add_block, self, start
        )
        return partial.result(self.dtype)


class Block(nn.Module):
    """One layer: modulated self-attention, cross-attention, modulated feed-forward."""

    config: WanConfig
    dtype: Any
    attention_fn: Callable
    constrain: Constrain

    @nn.compact
    def __call__(self, x_BxLxD, text: Array | TextBlocks, modulation_Bx6xD, rotary, mask):
        config = self.config
        table = modulation_table(self, config, 6)
        shift, scale, gate, ff_shift, ff_scale, ff_gate = jnp.split(
            table + modulation_Bx6xD, 6, axis=1
        )
        attention = Attention(config, self.dtype, self.attention_fn, name="self_attention")
        x = modulated_norm(config, "norm1", x_BxLxD, shift, scale).astype(self.dtype)
        x_BxLxD = gated_sum(x_BxLxD, gate, attention(x, x, rotary, mask))

        attention = Attention(config, self.dtype, self.attention_fn, name="cross_attention")
        x = x_BxLxD
        if config.cross_attn_norm:
            x = LayerNorm(config.eps, name="norm2")(x).astype(self.dtype)
        x_BxLxD += attention(x, text)

        x = modulated_norm(config, "norm3", x_BxLxD, ff_shift, ff_scale).astype(self.dtype)
        hidden = nn.Dense(config.ffn_dim, dtype=self.dtype, name="ff_up")(x)
        hidden = nn.gelu(hidden, approximate=True)
        out = nn.Dense(config.width, dtype=self.dtype, name="ff_down")(hidden)
        return self.constrain(gated_sum(x_BxLxD, ff_gate, out), TOKENS), None


def modulation_table(module: nn.Module, config: WanConfig, rows: int) -> Float[Array, "1 rows D"]:
    """Return the learned table of `module` that is added to the timestep's modulation, float32."""
    init = nn.initializers.normal(config.width**-0.5)
    return module.param("scale_shift_table", init, (1, rows, config.width)).astype(jnp.float32)


def modulated_norm(
    config: WanConfig, name: str, x_BxLxD: Array, shift_Bx1xD: Array, scale_Bx1xD: Array
) -> Float[Array, "B L D"]:
    """Apply a layer norm without parameters of its own, then scale and shift, in float32."""
    return LayerNorm(config.eps, affine=False, name=name)(x_BxLxD) * (1 + scale_Bx1xD) + shift_Bx1xD


class TimestepEmbedding(nn.Module):
    """Timesteps to their embedding [B, D] and the modulation of all blocks [B, 6, D].

    The modulation is shift, scale and gate of self-attention, then of the feed-forward.
    """

    config: WanConfig

    @nn.compact
    def __call__(self, timesteps_B) -> tuple[Float[Array, "B D"], Float[Array, "B 6 D"]]:
        width = self.config.width

        def dense(x: Array, features: int, name: str) -> Array:
            return nn.Dense(features, dtype=jnp.float32, name=name)(x)

        features = timestep_features(timesteps_B, self.config.freq_dim)
        temb_BxD = dense(nn.silu(dense(features, width, "linear_1")), width, "linear_2")
        modulation = dense(nn.silu(temb_BxD), 6 * width, "modulation")
        return temb_BxD, modulation.reshape(-1, 6, width)


class WanTransformer(nn.Module):
    """Predicts the flow's velocity (noise minus data) from noisy latents, timestep and text.

    Attributes:
      dtype: of the matrix products; norms, timestep embedding, modulation, rotary and softmax are
        float32.
      remat, unroll: see `scan_layers`.
      constrain: shards activations by their logical axes.
      token_multiple: the video tokens are padded to a multiple of this, so that a mesh divides
        them.
      text_block: texts of more slots are read in blocks of this many, without most of their
        padding: see `text_blocks`. It has no gradients. None: all slots at once.
    """

    config: WanConfig
    dtype: Any = jnp.float32
    attention_fn: Callable = blockwise_attention
    remat: bool = False
    unroll: int = 1
    constrain: Constrain = unconstrained
    token_multiple: int = 1
    text_block: int | None = None

    @nn.compact
    def __call__(
        self,
        latents_BxTxHxWxC: Float[Array, "B T H W C"],
        text_BxSxU: Float[Array, "B S U"],
        timesteps_B: Int[Array, "B"] | Float[Array, "B"],
        residual: Float[Array, "B L D"] | None = None,
        keep_residual: bool = False,
    ) -> Float[Array, "B T H W O"] | tuple[Float[Array, "B T H W O"], Float[Array, "B L D"]]:
        """Return the velocity of the latents.

        Args:
          residual: used in place of what all layers would add to the tokens; they are not run.
          keep_residual: also return what the layers added.
        """
        config = self.config
        _, frames, height, width, _ = latents_BxTxHxWxC.shape
        latent_shape = (frames, height, width)
        text = nn.Dense(config.width, dtype=self.dtype, name="text_linear_1")(text_BxSxU)
        text = nn.gelu(text, approximate=True)
        text = nn.Dense(config.width, dtype=self.dtype, name="text_linear_2")(text)
        if self.text_block is not None and text.shape[1] > self.text_block:
            text = TextBlocks.split(text, text_lengths(text_BxSxU), self.text_block)
        temb_BxD, modulation_Bx6xD = TimestepEmbedding(config, name="time_embedding")(timesteps_B)

        x_BxLxD = self._embed_patches(latents_BxTxHxWxC)
        num_tokens = x_BxLxD.shape[1]
        rotary = config.rotary(latent_shape)
        mask = None
        padding = -num_tokens % self.token_multiple
        if padding:
            x_BxLxD = jnp.pad(x_BxLxD, ((0, 0), (0, padding), (0, 0)))
            rotary = tuple(jnp.pad(table, ((0, padding), (0, 0))) for table in rotary)
            mask = FirstKeys(num_tokens)
        layers = scan_layers(Block, config.num_layers, self.unroll, self.remat)(
            config, self.dtype, self.attention_fn, self.constrain, name="layers"
        )
        start_BxLxD = self.constrain(x_BxLxD, TOKENS)
        if residual is None:
            end_BxLxD, _ = layers(start_BxLxD, text, modulation_Bx6xD, rotary, mask)
        else:
            end_BxLxD = start_BxLxD + residual

        table = modulation_table(self, config, 2)
        shift, scale = jnp.split(table + temb_BxD[:, None], 2, axis=1)
        x_BxLxD = modulated_norm(config, "norm_out", end_BxLxD, shift, scale).astype(self.dtype)
        patch_values = config.out_channels * math.prod(config.patch_size)
        out_BxLxP = nn.Dense(patch_values, dtype=self.dtype, name="proj_out")(x_BxLxD)
        output = unpatchify(config, out_BxLxP[:, :num_tokens], latent_shape)
        return (output, end_BxLxD - start_BxLxD) if keep_residual else output

    def _embed_patches(self, latents_BxTxHxWxC: Array) -> Float[Array, "B L D"]:
        """Apply a convolution whose stride is its window, as one matrix product.

        The kernel keeps the convolution's shape, as in the checkpoint.
        """
        config = self.config
        init = nn.initializers.lecun_normal(in_axis=(0, 1, 2, 3))
        shape = (*config.patch_size, config.in_channels, config.width)
        kernel = self.param("patch_kernel", init, shape).reshape(-1, config.width)
        bias = self.param("patch_bias", ZEROS, (config.width,))
        patches_BxLxP = patchify(config, latents_BxTxHxWxC)
        x_BxLxD = patches_BxLxP.astype(self.dtype) @ kernel.astype(self.dtype)
        return x_BxLxD + bias.astype(self.dtype)


def patchify(
    config: WanConfig, latents_BxTxHxWxC: Float[Array, "B T H W C"]
) -> Float[Array, "B L P"]:
    """Arrange latents as one row of values per patch, channels innermost."""
    batch, frames, height, width, channels = latents_BxTxHxWxC.shape
    t, h, w = config.grid((frames, height, width))
    pt, ph, pw = config.patch_size
    x = latents_BxTxHxWxC.reshape(batch, t, pt, h, ph, w, pw, channels)
    return x.transpose(0, 1, 3, 5, 2, 4, 6, 7).reshape(batch, t * h * w, -1)


def unpatchify(
    config: WanConfig, x_BxLxP: Float[Array, "B L P"], latent_shape: tuple[int, int, int]
) -> Float[Array, "B T H W O"]:
    """Invert `patchify` for the output channels."""
    t, h, w = config.grid(latent_shape)
    pt, ph, pw = config.patch_size
    x = x_BxLxP.reshape(-1, t, h, w, pt, ph, pw, config.out_channels)
    x = x.transpose(0, 1, 4, 2, 5, 3, 6, 7)
    return x.reshape(-1, t * pt, h * ph, w * pw, config.out_channels)
