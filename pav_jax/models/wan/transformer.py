"""The Wan 2.1 denoiser: self-attention over video tokens, cross-attention to the text, modulated by
the timestep.

Source: Wan Team 2025 (arXiv 2503.20314), section 4.2: one modulation for all blocks, to which each
adds its own table; queries and keys RMS-normed across heads; 3-D rotary positions; the text, zero
where it is padding, is not masked.

Shapes: B batch, T, H, W latent frames, height, width, C channels; S text tokens, U text width, L
video tokens, D width, N heads, K head size.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pav_jax.models.attention.blockwise import blockwise_attention
from pav_jax.models.attention.dot_product import FirstKeys
from pav_jax.models.layers import LayerNorm, RMSNorm, gated_sum
from pav_jax.models.video_positions import broadcast_tables, rotate, timestep_features

TOKENS = ("batch", "length", None)  # logical axes of the residual stream
ZEROS = nn.initializers.zeros_init()


@dataclasses.dataclass(frozen=True)
class WanConfig:
    """Field names are diffusers' own (`WanTransformer3DModel`), so is their meaning. Defaults: Wan
    2.1 14B."""

    patch_size: tuple[int, int, int] = (1, 2, 2)
    num_attention_heads: int = 40
    attention_head_dim: int = 128
    in_channels: int = 16
    out_channels: int = 16
    text_dim: int = 4096
    freq_dim: int = 256
    ffn_dim: int = 13824
    num_layers: int = 40
    cross_attn_norm: bool = True
    eps: float = 1e-6
    rope_max_seq_len: int = 1024

    @property
    def width(self) -> int:
        return self.num_attention_heads * self.attention_head_dim

    def grid(self, latent_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Patch grid (t, h, w) of latents [T, H, W]."""
        return tuple(
            size // patch for size, patch in zip(latent_shape, self.patch_size, strict=True)
        )

    def rotary(
        self, latent_shape: tuple[int, int, int]
    ) -> tuple[Float[Array, "L K/2"], Float[Array, "L K/2"]]:
        """(cos, sin) of each pair of channels: a third of the head, rounded down to pairs, for
        height, as much for width, the rest for time."""
        third = 2 * (self.attention_head_dim // 6)
        channels = (self.attention_head_dim - 2 * third, third, third)
        angles = [
            np.outer(
                np.arange(size), 1.0 / 10000.0 ** (np.arange(0, count, 2) / count)
            )  # float64, as diffusers
            for size, count in zip(self.grid(latent_shape), channels, strict=True)
        ]
        return tuple(
            broadcast_tables(*(wave(a) for a in angles), "thw") for wave in (np.cos, np.sin)
        )


class Attention(nn.Module):
    """Attention from video tokens to `context`: themselves, or the text."""

    config: WanConfig
    dtype: Any
    attention_fn: Callable

    @nn.compact
    def __call__(self, x_BxLxD, context_BxSxD, rotary=None, mask=None):
        config = self.config
        dense = lambda name, x: nn.Dense(config.width, dtype=self.dtype, name=name)(x)  # noqa: E731
        norm = lambda name, x: RMSNorm(config.eps, self.dtype, name=name)(x)  # noqa: E731
        q, k, v = (
            x.reshape(*x.shape[:2], config.num_attention_heads, config.attention_head_dim)
            for x in (
                norm("q_norm", dense("q_proj", x_BxLxD)),
                norm("k_norm", dense("k_proj", context_BxSxD)),
                dense("v_proj", context_BxSxD),
            )
        )
        if rotary is not None:
            q, k = rotate(q, rotary), rotate(k, rotary)
        return dense("o_proj", self.attention_fn(q, k, v, mask).reshape(x_BxLxD.shape))


class Block(nn.Module):
    config: WanConfig
    dtype: Any
    attention_fn: Callable
    constrain: Callable

    @nn.compact
    def __call__(self, x_BxLxD, text_BxSxD, modulation_Bx6xD, rotary, mask):
        config = self.config
        table_1x6xD = self.param(
            "scale_shift_table", nn.initializers.normal(config.width**-0.5), (1, 6, config.width)
        )
        shift, scale, gate, ff_shift, ff_scale, ff_gate = jnp.split(
            table_1x6xD.astype(jnp.float32) + modulation_Bx6xD, 6, axis=1
        )
        attention = lambda name, *args: Attention(config, self.dtype, self.attention_fn, name=name)(
            *args
        )  # noqa: E731

        x = modulated_norm(config, "norm1", x_BxLxD, shift, scale).astype(self.dtype)
        x_BxLxD = gated_sum(x_BxLxD, gate, attention("self_attention", x, x, rotary, mask))

        x = (
            LayerNorm(config.eps, name="norm2")(x_BxLxD).astype(self.dtype)
            if config.cross_attn_norm
            else x_BxLxD
        )
        x_BxLxD += attention("cross_attention", x, text_BxSxD)

        x = modulated_norm(config, "norm3", x_BxLxD, ff_shift, ff_scale).astype(self.dtype)
        hidden = nn.gelu(
            nn.Dense(config.ffn_dim, dtype=self.dtype, name="ff_up")(x), approximate=True
        )
        out = nn.Dense(config.width, dtype=self.dtype, name="ff_down")(hidden)
        return self.constrain(gated_sum(x_BxLxD, ff_gate, out), TOKENS), None


def modulated_norm(
    config: WanConfig, name: str, x_BxLxD: Array, shift_Bx1xD: Array, scale_Bx1xD: Array
) -> Array:
    """Layer norm without parameters of its own, float32."""
    return LayerNorm(config.eps, affine=False, name=name)(x_BxLxD) * (1 + scale_Bx1xD) + shift_Bx1xD


class TimestepEmbedding(nn.Module):
    """The timestep's vector, and what all blocks make of it: shift, scale and gate of attention and
    feed-forward."""

    config: WanConfig

    @nn.compact
    def __call__(self, timesteps_B) -> tuple[Array, Array]:
        width = self.config.width
        dense = lambda name, size, x: nn.Dense(size, dtype=jnp.float32, name=name)(x)  # noqa: E731
        features = timestep_features(timesteps_B, self.config.freq_dim)
        temb_BxD = dense("linear_2", width, nn.silu(dense("linear_1", width, features)))
        return temb_BxD, dense("modulation", 6 * width, nn.silu(temb_BxD)).reshape(-1, 6, width)


class WanTransformer(nn.Module):
    """Noisy latents, timestep and text to the flow's velocity, noise minus data.

    Attributes:
      dtype: compute type of the matrix products; norms, timestep embedding, modulation, rotary and
        softmax stay in float32.
      remat: recompute each layer in the backward pass instead of keeping its activations.
      unroll: layers per step of the scan.
      constrain: keeps an array where its logical axes belong, on a mesh.
      token_multiple: the video tokens are padded to a multiple of it, for a mesh that cuts them
        evenly.
    """

    config: WanConfig
    dtype: Any = jnp.float32
    attention_fn: Callable = blockwise_attention
    remat: bool = False
    unroll: int = 1
    constrain: Callable[[Array, tuple[str | None, ...]], Array] = lambda x, axes: x
    token_multiple: int = 1

    @nn.compact
    def __call__(
        self,
        latents_BxTxHxWxC: Float[Array, "B T H W C"],
        text_BxSxU: Float[Array, "B S U"],
        timesteps_B: Int[Array, "B"] | Float[Array, "B"],
        residual: Float[Array, "B L D"] | None = None,
        keep_residual: bool = False,
    ) -> Float[Array, "B T H W O"] | tuple[Float[Array, "B T H W O"], Float[Array, "B L D"]]:
        """
        Args:
          residual: stands for what all layers would add to the tokens; they are not run.
          keep_residual: also return what they added.
        """
        config = self.config
        latent_shape = latents_BxTxHxWxC.shape[1:4]
        dense = lambda name, x: nn.Dense(config.width, dtype=self.dtype, name=name)(x)  # noqa: E731
        text_BxSxD = dense(
            "text_linear_2", nn.gelu(dense("text_linear_1", text_BxSxU), approximate=True)
        )
        temb_BxD, modulation_Bx6xD = TimestepEmbedding(config, name="time_embedding")(timesteps_B)

        # a convolution whose stride is its window; the kernel keeps the convolution's shape for its
        # name's sake
        kernel = self.param(
            "patch_kernel",
            nn.initializers.lecun_normal(in_axis=(0, 1, 2, 3)),
            (*config.patch_size, config.in_channels, config.width),
        ).reshape(-1, config.width)
        bias = self.param("patch_bias", ZEROS, (config.width,))
        x_BxLxD = patchify(config, latents_BxTxHxWxC).astype(self.dtype) @ kernel.astype(self.dtype)
        x_BxLxD += bias.astype(self.dtype)
        tokens, rotary = x_BxLxD.shape[1], config.rotary(latent_shape)
        if padding := -tokens % self.token_multiple:
            x_BxLxD = jnp.pad(x_BxLxD, ((0, 0), (0, padding), (0, 0)))
            rotary = tuple(jnp.pad(table, ((0, padding), (0, 0))) for table in rotary)
        mask = FirstKeys(tokens) if padding else None

        block = nn.remat(Block, prevent_cse=False) if self.remat else Block
        stack = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(nn.broadcast,) * 4,
            length=config.num_layers,
            unroll=self.unroll,
        )(config, self.dtype, self.attention_fn, self.constrain, name="layers")
        start_BxLxD = self.constrain(x_BxLxD, TOKENS)
        if residual is None:
            x_BxLxD, _ = stack(start_BxLxD, text_BxSxD, modulation_Bx6xD, rotary, mask)
        else:
            x_BxLxD = start_BxLxD + residual
        added_BxLxD = x_BxLxD - start_BxLxD if keep_residual else None

        table_1x2xD = self.param(
            "scale_shift_table", nn.initializers.normal(config.width**-0.5), (1, 2, config.width)
        )
        shift, scale = jnp.split(table_1x2xD.astype(jnp.float32) + temb_BxD[:, None], 2, axis=1)
        x_BxLxD = modulated_norm(config, "norm_out", x_BxLxD, shift, scale).astype(self.dtype)
        pixels = config.out_channels * math.prod(config.patch_size)
        x_BxLxP = nn.Dense(pixels, dtype=self.dtype, name="proj_out")(x_BxLxD)
        output = unpatchify(config, x_BxLxP[:, :tokens], latent_shape)
        return (output, added_BxLxD) if keep_residual else output


def patchify(config: WanConfig, x_BxTxHxWxC: Array) -> Float[Array, "B L P"]:
    """Latents to one row of values per patch, channels innermost."""
    (t, h, w), (pt, ph, pw) = config.grid(x_BxTxHxWxC.shape[1:4]), config.patch_size
    x = x_BxTxHxWxC.reshape(-1, t, pt, h, ph, w, pw, x_BxTxHxWxC.shape[-1]).transpose(
        0, 1, 3, 5, 2, 4, 6, 7
    )
    return x.reshape(x.shape[0], t * h * w, -1)


def unpatchify(
    config: WanConfig, x_BxLxP: Array, latent_shape: tuple[int, int, int]
) -> Float[Array, "B T H W O"]:
    (t, h, w), (pt, ph, pw) = config.grid(latent_shape), config.patch_size
    x = x_BxLxP.reshape(-1, t, h, w, pt, ph, pw, config.out_channels).transpose(
        0, 1, 4, 2, 5, 3, 6, 7
    )
    return x.reshape(-1, t * pt, h * ph, w * pw, config.out_channels)
