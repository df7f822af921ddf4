"""STDiT3, Open-Sora 1.2's denoiser: spatial and temporal attention, modulated by the timestep.

Layers are pairs of a spatial block (attention within a frame) and a temporal block (attention over
frames at one patch position), each with cross-attention to the caption.

Sources: hpcaitech/Open-Sora, tag v1.2.0, `opensora/models/stdit/stdit3.py` and docs/report_03.md;
adaptive norms with one shared projection and a table per block: Chen et al. 2023 (arXiv 2310.00426,
section 2.3).

Shapes: B batch, T, H, W latent frames, height, width, C channels, O output channels; M caption
tokens, U their width; S patches of a frame, P values of a patch, D width, N heads, K head size.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Annotated, Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from pav_jax.models.attention.blockwise import blockwise_attention
from pav_jax.models.layers import LayerNorm, RMSNorm, gated_sum, scan_layers
from pav_jax.models.video_positions import rotate, timestep_features
from pav_jax.typed_fields import Depth, Range

ZEROS = nn.initializers.zeros_init()
NUM_FEATURES = 256  # sinusoidal features of a timestep or a frame rate
NORM_EPSILON = 1e-6


@dataclasses.dataclass(frozen=True)
class STDiT3Config:
    """Configuration with the published config.json's field names; defaults: OpenSora-STDiT-v3.

    Attributes:
      input_sq_size: height and width in pixels at which positions are 0, 1, 2, ...
      pred_sigma: twice the output channels; sampling uses the first half.
    """

    input_sq_size: int = 512
    in_channels: int = 4
    patch_size: tuple[int, int, int] = (1, 2, 2)
    hidden_size: int = 1152
    depth: Depth = 28
    num_heads: int = 16
    mlp_ratio: Annotated[float, Range(0, 2**16, positive=True)] = 4.0
    pred_sigma: bool = True
    caption_channels: int = 4096
    model_max_length: int = 300
    qk_norm: bool = True

    @property
    def width(self) -> int:
        """Features of a token."""
        return self.hidden_size

    @property
    def patch_volume(self) -> int:
        """Positions of the latent in a token."""
        return math.prod(self.patch_size)

    @property
    def head_size(self) -> int:
        """Features of an attention head."""
        return self.hidden_size // self.num_heads

    @property
    def out_channels(self) -> int:
        """Channels of the prediction."""
        return self.in_channels * (2 if self.pred_sigma else 1)

    def grid(self, latent_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return the patch grid (t, h, w) of latents [T, H, W], padded to whole patches."""
        frames, height, width = latent_shape
        pt, ph, pw = self.patch_size
        return -(-frames // pt), -(-height // ph), -(-width // pw)


class MLP(nn.Module):
    """Two dense layers with an activation in between."""

    hidden: int
    out: int
    activation: Callable
    dtype: Any

    @nn.compact
    def __call__(self, x):
        x = self.activation(nn.Dense(self.hidden, dtype=self.dtype, name="fc1")(x))
        return nn.Dense(self.out, dtype=self.dtype, name="fc2")(x)


def gelu(x: Array) -> Array:
    """Return the tanh approximation of GELU."""
    return nn.gelu(x, approximate=True)


class SelfAttention(nn.Module):
    """Attention over the patches of each frame; with `rotary`, over the frames at each position."""

    config: STDiT3Config
    dtype: Any
    attention_fn: Callable

    @nn.compact
    def __call__(
        self, x_BxTxSxD: Float[Array, "B T S D"], rotary: tuple[Array, Array] | None
    ) -> Float[Array, "B T S D"]:
        config = self.config
        batch, frames, patches, width = x_BxTxSxD.shape
        n = config.num_heads
        k = config.head_size
        qkv = nn.Dense(3 * width, dtype=self.dtype, name="qkv")(x_BxTxSxD)
        qkv = qkv.reshape(batch, frames, patches, 3, n, k)
        query = qkv[..., 0, :, :]
        key = qkv[..., 1, :, :]
        value = qkv[..., 2, :, :]
        if config.qk_norm:
            query = RMSNorm(NORM_EPSILON, self.dtype, name="q_norm")(query)
            key = RMSNorm(NORM_EPSILON, self.dtype, name="k_norm")(key)
        if rotary is None:
            frames_first = (x.reshape(batch * frames, patches, n, k) for x in (query, key, value))
            out = self.attention_fn(*frames_first)
        else:
            query, key, value = (
                x.swapaxes(1, 2).reshape(batch * patches, frames, n, k) for x in (query, key, value)
            )
            out = blockwise_attention(rotate(query, rotary), rotate(key, rotary), value)
            out = out.reshape(batch, patches, frames, n, k).swapaxes(1, 2)
        return nn.Dense(width, dtype=self.dtype, name="proj")(out.reshape(x_BxTxSxD.shape))


class CrossAttention(nn.Module):
    """Attention from every patch to the caption, without norms of queries and keys."""

    config: STDiT3Config
    dtype: Any

    @nn.compact
    def __call__(
        self,
        x_BxTxSxD: Float[Array, "B T S D"],
        text_BxMxD: Float[Array, "B M D"],
        mask_BxM: Array,
    ) -> Float[Array, "B T S D"]:
        batch, tokens, width = text_BxMxD.shape
        n = self.config.num_heads
        k = self.config.head_size
        query = nn.Dense(width, dtype=self.dtype, name="q_linear")(x_BxTxSxD)
        query = query.reshape(batch, -1, n, k)
        key_value = nn.Dense(2 * width, dtype=self.dtype, name="kv_linear")(text_BxMxD)
        key_value = key_value.reshape(batch, tokens, 2, n, k)
        mask = mask_BxM.astype(bool)[:, None, None, :]
        out = blockwise_attention(query, key_value[:, :, 0], key_value[:, :, 1], mask=mask)
        return nn.Dense(width, dtype=self.dtype, name="proj")(out.reshape(x_BxTxSxD.shape))


class Block(nn.Module):
    """Modulated self-attention, cross-attention, modulated feed-forward.

    Attributes:
      temporal: attention over frames instead of within frames.
    """

    config: STDiT3Config
    dtype: Any
    attention_fn: Callable
    temporal: bool

    @nn.compact
    def __call__(self, x_BxTxSxD, modulation_Bx6xD, text_BxMxD, mask_BxM, rotary):
        config = self.config
        width = config.hidden_size
        table = self.param("scale_shift_table", nn.initializers.normal(width**-0.5), (6, width))
        rows = (modulation_Bx6xD + table.astype(jnp.float32))[:, :, None, None, :]
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = (rows[:, i] for i in range(6))

        attention = SelfAttention(config, self.dtype, self.attention_fn, name="attention")
        x = modulated_norm(x_BxTxSxD, shift, scale).astype(self.dtype)
        out = attention(x, rotary if self.temporal else None)
        x_BxTxSxD = gated_sum(x_BxTxSxD, gate, out)

        cross_attention = CrossAttention(config, self.dtype, name="cross_attention")
        x_BxTxSxD += cross_attention(x_BxTxSxD, text_BxMxD, mask_BxM)

        mlp = MLP(int(width * config.mlp_ratio), width, gelu, self.dtype, name="mlp")
        out = mlp(modulated_norm(x_BxTxSxD, mlp_shift, mlp_scale).astype(self.dtype))
        return gated_sum(x_BxTxSxD, mlp_gate, out)


def modulated_norm(
    x_BxTxSxD: Array, shift_Bx1x1xD: Array, scale_Bx1x1xD: Array
) -> Float[Array, "B T S D"]:
    """Apply a layer norm without parameters, then scale and shift, in float32."""
    return LayerNorm(NORM_EPSILON, affine=False)(x_BxTxSxD) * (1 + scale_Bx1x1xD) + shift_Bx1x1xD


class Pair(nn.Module):
    """One layer: a spatial and a temporal block."""

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
    """Predicts the velocity from noise to video from noisy latents, caption and timestep.

    Attributes:
      dtype: of the matrix products; norms, modulation, rotary and softmax are float32.
      attention_fn: of attention within frames, which have many patches; frames and captions are
        few.
      remat, unroll: see `scan_layers`; a layer is a pair of blocks.
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
        """Return the prediction for the latents.

        Args:
          timesteps_B: from 1000 (noise) to 0 (video), possibly fractional.
          mask_BxM: True for the caption's tokens, False for padding.
          fps_B: frames per second of the video.
          size: height and width of the video in pixels, for the scale of the positions.
          null_B: rows that use the learned null caption in place of their text, with their own
            mask.
          residual: used in place of what all layers would add to the patches; they are not run.
          keep_residual: also return what the layers added.

        Returns:
          float32; of O = `config.out_channels` the first C are the velocity.
        """
        config = self.config
        width = config.hidden_size
        batch, frames, height, latent_width, _ = latents_BxTxHxWxC.shape
        shape = (frames, height, latent_width)
        grid = config.grid(shape)
        time_BxD = embed_scalars(config, "time_embedding", timesteps_B)
        time_BxD = time_BxD + embed_scalars(config, "fps_embedding", fps_B)
        modulation = nn.Dense(6 * width, dtype=jnp.float32, name="modulation")(nn.silu(time_BxD))
        text_BxMxU = self._with_null_caption(text_BxMxU, null_B)
        text_BxMxD = MLP(width, width, gelu, self.dtype, name="caption")(text_BxMxU)
        rotary = self._rotary(grid[0])

        x_BxTxSxD = Patches(config, self.dtype, name="patch_embed")(latents_BxTxHxWxC)
        x_BxTxSxD += positions(config, grid[1:], size).astype(self.dtype)
        layers = scan_layers(Pair, config.depth, self.unroll, self.remat)(
            config, self.dtype, self.attention_fn, name="layers"
        )
        start_BxTxSxD = x_BxTxSxD
        if residual is None:
            modulation_Bx6xD = modulation.reshape(batch, 6, width)
            end_BxTxSxD, _ = layers(start_BxTxSxD, modulation_Bx6xD, text_BxMxD, mask_BxM, rotary)
        else:
            end_BxTxSxD = start_BxTxSxD + residual

        table = self.param("out_table", nn.initializers.normal(width**-0.5), (2, width))
        table = table.astype(jnp.float32)
        shift, scale = (table[i] + time_BxD[:, None, None, :] for i in range(2))
        x_BxTxSxD = modulated_norm(end_BxTxSxD, shift, scale).astype(self.dtype)
        patch_values = config.out_channels * math.prod(config.patch_size)
        out = nn.Dense(patch_values, dtype=self.dtype, name="out")(x_BxTxSxD)
        output = unpatchify(config, out, grid, shape).astype(jnp.float32)
        return (output, end_BxTxSxD - start_BxTxSxD) if keep_residual else output

    def _with_null_caption(self, text_BxMxU: Array, null_B: Array | None) -> Array:
        """Replace the text of the rows `null_B` by the learned null caption."""
        config = self.config
        init = nn.initializers.normal(config.caption_channels**-0.5)
        shape = (config.model_max_length, config.caption_channels)
        null_MxU = self.param("null_caption", init, shape)
        if null_B is None:
            return text_BxMxU
        null_MxU = null_MxU[: text_BxMxU.shape[1]].astype(text_BxMxU.dtype)
        return jnp.where(null_B[:, None, None], null_MxU, text_BxMxU)

    def _rotary(self, frames: int) -> tuple[Array, Array]:
        """Return cos and sin [T, K/2] of the frames' angles; the frequencies are parameters."""
        k = self.config.head_size
        frequencies = self.param(
            "rotary_frequencies", lambda _: 10000.0 ** -(jnp.arange(0, k, 2) / k)
        )
        angles = jnp.arange(frames, dtype=jnp.float32)[:, None] * frequencies.astype(jnp.float32)
        return jnp.cos(angles), jnp.sin(angles)


def embed_scalars(config: STDiT3Config, name: str, x_B: Array) -> Float[Array, "B D"]:
    """Embed one number per row by sinusoidal features and an MLP; in a compact module."""
    mlp = MLP(config.hidden_size, config.hidden_size, nn.silu, jnp.float32, name=name)
    return mlp(timestep_features(x_B, NUM_FEATURES))


class Patches(nn.Module):
    """Embeds patches: a convolution whose stride is its window, as one matrix product.

    The kernel keeps the convolution's shape, as in the checkpoint.
    """

    config: STDiT3Config
    dtype: Any

    @nn.compact
    def __call__(self, x_BxTxHxWxC: Float[Array, "B T H W C"]) -> Float[Array, "B t S D"]:
        patch_size = self.config.patch_size
        features = self.config.hidden_size
        batch, frames, height, width, channels = x_BxTxHxWxC.shape
        t, h, w = self.config.grid((frames, height, width))
        pt, ph, pw = patch_size
        init = nn.initializers.lecun_normal(in_axis=(0, 1, 2, 3))
        kernel = self.param("kernel", init, (*patch_size, channels, features))
        bias = self.param("bias", ZEROS, (features,))
        padding = ((0, 0), (0, t * pt - frames), (0, h * ph - height), (0, w * pw - width), (0, 0))
        x = jnp.pad(x_BxTxHxWxC, padding)
        x = x.reshape(batch, t, pt, h, ph, w, pw, channels).transpose(0, 1, 3, 5, 2, 4, 6, 7)
        x = x.reshape(batch, t, h * w, -1).astype(self.dtype)
        return x @ kernel.reshape(-1, features).astype(self.dtype) + bias.astype(self.dtype)


def unpatchify(
    config: STDiT3Config,
    x_BxTxSxP: Float[Array, "B t S P"],
    grid: tuple[int, int, int],
    shape: tuple[int, int, int],
) -> Float[Array, "B T H W O"]:
    """Arrange patches, channels innermost, as latents of `shape` (frames, height, width)."""
    t, h, w = grid
    pt, ph, pw = config.patch_size
    frames, height, width = shape
    x = x_BxTxSxP.reshape(-1, t, h, w, pt, ph, pw, config.out_channels)
    x = x.transpose(0, 1, 4, 2, 5, 3, 6, 7)
    x = x.reshape(-1, t * pt, h * ph, w * pw, config.out_channels)
    return x[:, :frames, :height, :width]


def positions(
    config: STDiT3Config, grid: tuple[int, int], size: tuple[int, int]
) -> Float[Array, "S D"]:
    """Return sinusoids of the column in the first half of the channels, of the row in the second.

    Both run to round(sqrt(S)) / scale, whatever the aspect ratio. The scale is the square root of
    the video's pixels over `input_sq_size`, so that positions agree between resolutions.

    Args:
      grid: (h, w) in patches.
      size: height and width of the video in pixels.
    """
    h, w = grid
    half = config.hidden_size // 2
    base = round((h * w) ** 0.5)
    scale = (size[0] * size[1]) ** 0.5 / config.input_sq_size
    frequencies = 10000.0 ** -(np.arange(0, half, 2) / half)

    def table(count: int) -> Array:
        angles = np.outer(np.arange(count) / scale * (base / count), frequencies)
        waves = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
        return jnp.asarray(waves, jnp.float32)

    columns = jnp.broadcast_to(table(w)[None, :], (h, w, half))
    rows = jnp.broadcast_to(table(h)[:, None], (h, w, half))
    return jnp.concatenate([columns, rows], axis=-1).reshape(h * w, -1)
