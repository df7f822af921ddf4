"""STDiT3, Open-Sora 1.2's denoiser: pairs of a spatial block (attention among the places of one
frame) and a temporal one (attention among the frames at one place), each with cross attention to
the caption, modulated by the timestep.

Source of the arithmetic: hpcaitech/Open-Sora, tag v1.2.0, `opensora/models/stdit/stdit3.py`; of its
design, docs/report_03.md there; adaptive norms with one shared projection and a table per block,
Chen et al. 2023 (arXiv 2310.00426, section 2.3).

Shapes: B batch, T, H, W latent frames, height, width, C channels; M caption tokens, U their width;
S places of a frame in patches, D width, N heads, K head size.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from pav_jax.models.attention.blockwise import blockwise_attention
from pav_jax.models.layers import LayerNorm, RMSNorm, gated_sum
from pav_jax.models.video_positions import rotate, timestep_features

ZEROS = nn.initializers.zeros_init()
FREQUENCIES = 256  # waves a timestep or a frame rate is written in


@dataclasses.dataclass(frozen=True)
class STDiT3Config:
    """Field names are the published config.json's. Defaults: OpenSora-STDiT-v3 (XL/2)."""

    input_sq_size: int = 512  # side in pixels of the picture whose positions are 0, 1, 2, ...
    in_channels: int = 4
    patch_size: tuple[int, int, int] = (1, 2, 2)
    hidden_size: int = 1152
    depth: int = 28
    num_heads: int = 16
    mlp_ratio: float = 4.0
    pred_sigma: bool = True  # twice the channels; sampling reads the first half
    caption_channels: int = 4096
    model_max_length: int = 300
    qk_norm: bool = True

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def out_channels(self) -> int:
        return self.in_channels * (2 if self.pred_sigma else 1)

    def grid(self, latent_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Patches (t, h, w) of latents [T, H, W]; sizes that patches do not divide are padded."""
        return tuple(
            -(-size // patch) for size, patch in zip(latent_shape, self.patch_size, strict=True)
        )


class MLP(nn.Module):
    """Two linear layers; the captions', the timestep's, the frame rate's and the blocks'."""

    hidden: int
    out: int
    activation: Callable
    dtype: Any

    @nn.compact
    def __call__(self, x):
        x = self.activation(nn.Dense(self.hidden, dtype=self.dtype, name="fc1")(x))
        return nn.Dense(self.out, dtype=self.dtype, name="fc2")(x)


def gelu(x: Array) -> Array:
    return nn.gelu(x, approximate=True)


class SelfAttention(nn.Module):
    """Among the places of each frame; with `rotary`, among the frames of each place, whose
    positions then turn it."""

    config: STDiT3Config
    dtype: Any
    attention_fn: Callable

    @nn.compact
    def __call__(self, x_BxTxSxD: Array, rotary: tuple[Array, Array] | None) -> Array:
        config = self.config
        batch, frames, places, width = x_BxTxSxD.shape
        n, k = config.num_heads, config.head_size
        qkv = nn.Dense(3 * width, dtype=self.dtype, name="qkv")(x_BxTxSxD)
        qkv = qkv.reshape(batch, frames, places, 3, n, k)
        norm = lambda name, x: RMSNorm(1e-6, self.dtype, name=name)(x) if config.qk_norm else x  # noqa: E731
        q, key, v = (
            norm("q_norm", qkv[..., 0, :, :]),
            norm("k_norm", qkv[..., 1, :, :]),
            qkv[..., 2, :, :],
        )
        if rotary is None:
            out = self.attention_fn(*(x.reshape(batch * frames, places, n, k) for x in (q, key, v)))
        else:
            q, key, v = (
                x.swapaxes(1, 2).reshape(batch * places, frames, n, k) for x in (q, key, v)
            )
            out = blockwise_attention(rotate(q, rotary), rotate(key, rotary), v)
            out = out.reshape(batch, places, frames, n, k).swapaxes(1, 2)
        return nn.Dense(width, dtype=self.dtype, name="proj")(out.reshape(x_BxTxSxD.shape))


class CrossAttention(nn.Module):
    """Of every place to the caption's own tokens, without norms of queries and keys."""

    config: STDiT3Config
    dtype: Any

    @nn.compact
    def __call__(self, x_BxTxSxD: Array, text_BxMxD: Array, mask_BxM: Array) -> Array:
        config = self.config
        batch, tokens, width = text_BxMxD.shape
        n, k = config.num_heads, config.head_size
        q = nn.Dense(width, dtype=self.dtype, name="q_linear")(x_BxTxSxD).reshape(batch, -1, n, k)
        kv = nn.Dense(2 * width, dtype=self.dtype, name="kv_linear")(text_BxMxD).reshape(
            batch, tokens, 2, n, k
        )
        mask_Bx1x1xM = mask_BxM.astype(bool)[:, None, None, :]
        out = blockwise_attention(q, kv[:, :, 0], kv[:, :, 1], mask=mask_Bx1x1xM)
        return nn.Dense(width, dtype=self.dtype, name="proj")(out.reshape(x_BxTxSxD.shape))


class Block(nn.Module):
    """Modulated self-attention, cross attention, modulated feed-forward. `temporal`: over frames
    instead of places."""

    config: STDiT3Config
    dtype: Any
    attention_fn: Callable
    temporal: bool

    @nn.compact
    def __call__(self, x_BxTxSxD, modulation_Bx6xD, text_BxMxD, mask_BxM, rotary):
        config, width = self.config, self.config.hidden_size
        table_6xD = self.param("scale_shift_table", nn.initializers.normal(width**-0.5), (6, width))
        rows = (modulation_Bx6xD + table_6xD.astype(jnp.float32))[:, :, None, None, :]
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = (rows[:, i] for i in range(6))
        norm = lambda x, shift, scale: (  # noqa: E731
            LayerNorm(1e-6, affine=False)(x) * (1 + scale) + shift
        ).astype(self.dtype)

        out = SelfAttention(config, self.dtype, self.attention_fn, name="attention")(
            norm(x_BxTxSxD, shift, scale), rotary if self.temporal else None
        )
        x_BxTxSxD = gated_sum(x_BxTxSxD, gate, out)
        x_BxTxSxD += CrossAttention(config, self.dtype, name="cross_attention")(
            x_BxTxSxD, text_BxMxD, mask_BxM
        )
        hidden = int(width * config.mlp_ratio)
        out = MLP(hidden, width, gelu, self.dtype, name="mlp")(
            norm(x_BxTxSxD, mlp_shift, mlp_scale)
        )
        return gated_sum(x_BxTxSxD, mlp_gate, out)


class Pair(nn.Module):
    """One layer of the scan."""

    config: STDiT3Config
    dtype: Any
    attention_fn: Callable

    @nn.compact
    def __call__(self, x_BxTxSxD, *conditions):
        for name in ("spatial", "temporal"):
            block = Block(self.config, self.dtype, self.attention_fn, name == "temporal", name=name)
            x_BxTxSxD = block(x_BxTxSxD, *conditions)
        return x_BxTxSxD, None


class STDiT3(nn.Module):
    """Noisy latents, caption and timestep to the velocity from noise to video.

    Attributes:
      dtype: compute type of the matrix products; norms, modulation, rotary and softmax stay in
        float32.
      attention_fn: of queries, keys and values, for the places of a frame; they are many, frames
        and captions are not.
      remat: recompute each pair of blocks in the backward pass instead of keeping its activations.
      unroll: pairs per step of the scan.
    """

    config: STDiT3Config
    dtype: Any = jnp.float32
    attention_fn: Callable = blockwise_attention
    remat: bool = False
    unroll: int = 1

    @nn.compact
    def __call__(
        self,
        latents_BxTxHxWxC: Float[Array, "B T H W C"],
        timesteps_B: Float[Array, "B"],
        text_BxMxU: Float[Array, "B M U"],
        mask_BxM: Bool[Array, "B M"],
        fps_B: Float[Array, "B"],
        size: tuple[int, int],
        null_B: Bool[Array, "B"] | None = None,
        residual: Float[Array, "B T S D"] | None = None,
        keep_residual: bool = False,
    ) -> Float[Array, "B T H W O"] | tuple[Float[Array, "B T H W O"], Float[Array, "B T S D"]]:
        """
        Args:
          timesteps_B: 1000 is noise, 0 is video; fractions are allowed.
          mask_BxM: the caption's own tokens; the others are not looked at.
          fps_B: frames per second the video is to have.
          size: height and width of the video in pixels, for the scale of the positions.
          null_B: rows that see the learned null caption instead of their text, under their own
            mask.
          residual: stands for what all pairs of blocks would add to the places; they are not run.
          keep_residual: also return what they added.

        Returns:
          float32; of O = `config.out_channels` the first C are the velocity.
        """
        config, width = self.config, self.config.hidden_size
        batch, *shape, _ = latents_BxTxHxWxC.shape
        frames, *grid = config.grid(tuple(shape))

        embed = lambda name, x_B: MLP(width, width, nn.silu, jnp.float32, name=name)(  # noqa: E731
            timestep_features(x_B, FREQUENCIES)
        )
        time_BxD = embed("time_embedding", timesteps_B) + embed("fps_embedding", fps_B)
        modulation = nn.Dense(6 * width, dtype=jnp.float32, name="modulation")(nn.silu(time_BxD))

        null_MxU = self.param(
            "null_caption",
            nn.initializers.normal(config.caption_channels**-0.5),
            (config.model_max_length, config.caption_channels),
        )
        if null_B is not None:
            null_MxU = null_MxU[: text_BxMxU.shape[1]].astype(text_BxMxU.dtype)
            text_BxMxU = jnp.where(null_B[:, None, None], null_MxU, text_BxMxU)
        text_BxMxD = MLP(width, width, gelu, self.dtype, name="caption")(text_BxMxU)

        k = config.head_size
        frequencies = self.param(
            "rotary_frequencies", lambda _: 10000.0 ** -(jnp.arange(0, k, 2) / k)
        )
        angles = jnp.arange(frames, dtype=jnp.float32)[:, None] * frequencies.astype(jnp.float32)
        rotary = (jnp.cos(angles), jnp.sin(angles))

        x_BxTxSxD = Patches(config, self.dtype, name="patch_embed")(latents_BxTxHxWxC)
        x_BxTxSxD += positions(config, tuple(grid), size).astype(self.dtype)
        pair = nn.remat(Pair, prevent_cse=False) if self.remat else Pair
        stack = nn.scan(
            pair,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=config.depth,
            unroll=self.unroll,
        )(config, self.dtype, self.attention_fn, name="layers")
        start_BxTxSxD = x_BxTxSxD
        if residual is None:
            x_BxTxSxD, _ = stack(
                start_BxTxSxD, modulation.reshape(batch, 6, width), text_BxMxD, mask_BxM, rotary
            )
        else:
            x_BxTxSxD = start_BxTxSxD + residual
        added_BxTxSxD = x_BxTxSxD - start_BxTxSxD if keep_residual else None

        table_2xD = self.param("out_table", nn.initializers.normal(width**-0.5), (2, width)).astype(
            jnp.float32
        )
        shift, scale = (table_2xD[i] + time_BxD[:, None, None, :] for i in range(2))
        x_BxTxSxD = LayerNorm(1e-6, affine=False)(x_BxTxSxD) * (1 + scale) + shift
        values = config.out_channels * int(np.prod(config.patch_size))
        out = nn.Dense(values, dtype=self.dtype, name="out")(x_BxTxSxD.astype(self.dtype))
        output = unpatchify(config, out, (frames, *grid), tuple(shape)).astype(jnp.float32)
        return (output, added_BxTxSxD) if keep_residual else output


class Patches(nn.Module):
    """A convolution whose stride is its window, as one matrix product; the kernel keeps the
    convolution's shape."""

    config: STDiT3Config
    dtype: Any

    @nn.compact
    def __call__(self, x_BxTxHxWxC: Array) -> Float[Array, "B T S D"]:
        config, patch = self.config, self.config.patch_size
        batch, *shape, channels = x_BxTxHxWxC.shape
        t, h, w = config.grid(tuple(shape))
        (pt, ph, pw), width = patch, config.hidden_size
        kernel = self.param(
            "kernel", nn.initializers.lecun_normal(in_axis=(0, 1, 2, 3)), (*patch, channels, width)
        )
        bias = self.param("bias", ZEROS, (width,))
        padding = [(0, n * p - size) for n, p, size in zip((t, h, w), patch, shape, strict=True)]
        x = jnp.pad(x_BxTxHxWxC, [(0, 0), *padding, (0, 0)])
        x = x.reshape(batch, t, pt, h, ph, w, pw, channels).transpose(0, 1, 3, 5, 2, 4, 6, 7)
        x = x.reshape(batch, t, h * w, -1).astype(self.dtype)
        return x @ kernel.reshape(-1, width).astype(self.dtype) + bias.astype(self.dtype)


def unpatchify(
    config: STDiT3Config, x_BxTxSxP: Array, grid: tuple[int, ...], shape: tuple[int, ...]
) -> Array:
    """The inverse: patches, channels innermost, to [B, T, H, W, O], what padding added cut off."""
    (t, h, w), (pt, ph, pw) = grid, config.patch_size
    x = x_BxTxSxP.reshape(-1, t, h, w, pt, ph, pw, config.out_channels).transpose(
        0, 1, 4, 2, 5, 3, 6, 7
    )
    x = x.reshape(-1, t * pt, h * ph, w * pw, config.out_channels)
    return x[:, : shape[0], : shape[1], : shape[2]]


def positions(
    config: STDiT3Config, grid: tuple[int, int], size: tuple[int, int]
) -> Float[Array, "S D"]:
    """Sinusoids of the column in the first half of the channels and of the row in the second.

    Both run to round(sqrt(S)) over the scale, whatever the aspect ratio; the scale is the video's
    side (the root of its pixels) over `input_sq_size`, so that a place means the same in pictures
    of every size.
    """
    (h, w), half = grid, config.hidden_size // 2
    base, scale = round((h * w) ** 0.5), (size[0] * size[1]) ** 0.5 / config.input_sq_size
    frequencies = 10000.0 ** -(np.arange(0, half, 2) / half)
    tables = []
    for count in (w, h):
        angles = np.outer(np.arange(count) / scale * (base / count), frequencies)
        tables.append(
            jnp.asarray(np.concatenate([np.sin(angles), np.cos(angles)], axis=1), jnp.float32)
        )
    columns, rows = tables
    both = [jnp.broadcast_to(table, (h, w, half)) for table in (columns[None, :], rows[:, None])]
    return jnp.concatenate(both, axis=-1).reshape(h * w, -1)
