"""The CogVideoX denoiser: one transformer over text and video tokens, modulated by the timestep.

Source: Yang et al. 2024 (arXiv 2408.06072), section 2.2, and diffusers'
`CogVideoXTransformer3DModel`: expert adaptive norms (separate shift, scale and gate for text and
video), full 3-D attention, sinusoidal positions (2B) or 3-D rotary ones (5B), query/key norms.

Text and video tokens form one sequence, text first, so that a mesh can shard it at any token.

Shapes: B batch, C channels, O output channels; S text tokens, U text width, L video tokens, T = S +
L (and padding), D width, N heads, K head size, E timestep embedding; of latents, T, H, W are
frames, height and width.
"""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pav_jax.models import video_positions
from pav_jax.models.attention.dot_product import FirstKeys, dot_product_attention
from pav_jax.models.layers import Constrain, LayerNorm, gated_sum, scan_layers, unconstrained
from pav_jax.typed_fields import Depth, NonNegative, Positive, Range

TOKENS = ("batch", "length", None)  # logical axes of the residual stream
# modulation starts as the identity: adaLN-Zero (arXiv 2212.09748, section 3.2)
ZEROS = nn.initializers.zeros_init()
OFS_15 = 2.0  # the `ofs` condition that CogVideoX 1.5 samples with


@dataclasses.dataclass(frozen=True)
class CogVideoXConfig:
    """Configuration with diffusers' field names and meanings; defaults: CogVideoX-2B."""

    num_attention_heads: int = 30
    attention_head_dim: int = 64
    in_channels: int = 16
    out_channels: int = 16
    flip_sin_to_cos: bool = True
    freq_shift: Annotated[int, Range(0, 1)] = 0
    time_embed_dim: int = 512
    ofs_embed_dim: int | None = None  # the extra condition of 1.5 image-to-video
    text_embed_dim: int = 4096
    num_layers: Depth = 30
    attention_bias: bool = True
    sample_width: int = 90
    sample_height: int = 60
    sample_frames: int = 49
    patch_size: int = 2
    patch_size_t: int | None = None  # 2 in version 1.5
    temporal_compression_ratio: int = 4
    max_text_seq_length: int = 226
    norm_elementwise_affine: bool = True
    norm_eps: NonNegative = 1e-5
    spatial_interpolation_scale: Positive = 1.875
    temporal_interpolation_scale: Positive = 1.0
    use_rotary_positional_embeddings: bool = False
    use_learned_positional_embeddings: bool = False
    patch_bias: bool = True

    @property
    def width(self) -> int:
        """Features of a token."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def patch_volume(self) -> int:
        """Positions of the latent in a token."""
        return (self.patch_size_t or 1) * self.patch_size**2

    @property
    def sample_latent_frames(self) -> int:
        """Latent frames of the training videos."""
        return (self.sample_frames - 1) // self.temporal_compression_ratio + 1

    def grid(self, latent_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return the patch grid (t, h, w) of latents [T, H, W]."""
        t, h, w = latent_shape
        return -(-t // (self.patch_size_t or 1)), h // self.patch_size, w // self.patch_size

    def rotary(self, latent_shape: tuple[int, int, int]) -> tuple[Array, Array] | None:
        """Return (cos, sin), each [L, K/2], for latents [T, H, W]; None if not rotary."""
        if not self.use_rotary_positional_embeddings:
            return None
        base = (self.sample_height // self.patch_size, self.sample_width // self.patch_size)
        return video_positions.rotary_tables(
            self.attention_head_dim,
            self.grid(latent_shape),
            base if self.patch_size_t is None else None,
        )


def layer_norm(config: CogVideoXConfig, name: str) -> LayerNorm:
    """Return the configuration's layer norm as a submodule called `name`."""
    return LayerNorm(config.norm_eps, config.norm_elementwise_affine, name=name)


class ModulatedNorm(nn.Module):
    """Layer norm with shift and scale from the timestep, separate for text and video.

    Also returns the gate of the layer that follows.
    """

    config: CogVideoXConfig
    dtype: Any

    @nn.compact
    def __call__(self, x_BxTxD, is_text_T, temb_BxE):
        width = 6 * self.config.width
        linear = nn.Dense(width, dtype=jnp.float32, kernel_init=ZEROS, name="linear")
        parts = jnp.split(linear(nn.silu(temb_BxE))[:, None, :], 6, axis=-1)
        shift, scale, gate = (
            jnp.where(is_text_T[None, :, None], text, video)
            for video, text in zip(parts[:3], parts[3:], strict=True)
        )
        x_BxTxD = layer_norm(self.config, "norm")(x_BxTxD) * (1 + scale) + shift
        return x_BxTxD.astype(self.dtype), gate


class JointAttention(nn.Module):
    """Self-attention over text and video; queries and keys are normed per head, then rotated."""

    config: CogVideoXConfig
    dtype: Any
    attention_fn: Callable

    @nn.compact
    def __call__(self, x_BxTxD, rotary, mask):
        config = self.config
        heads = (*x_BxTxD.shape[:2], config.num_attention_heads, config.attention_head_dim)

        def project(name: str) -> Array:
            bias = config.attention_bias
            dense = nn.Dense(config.width, use_bias=bias, dtype=self.dtype, name=name)
            return dense(x_BxTxD).reshape(heads)

        q_BxTxNxK = LayerNorm(1e-6, name="q_norm")(project("q_proj"))
        k_BxTxNxK = LayerNorm(1e-6, name="k_norm")(project("k_proj"))
        if rotary is not None:
            q_BxTxNxK = video_positions.rotate(q_BxTxNxK, rotary)
            k_BxTxNxK = video_positions.rotate(k_BxTxNxK, rotary)
        out_BxTxNxK = self.attention_fn(
            q_BxTxNxK.astype(self.dtype), k_BxTxNxK.astype(self.dtype), project("v_proj"), mask
        )
        output = nn.Dense(config.width, dtype=self.dtype, name="o_proj")
        return output(out_BxTxNxK.reshape(x_BxTxD.shape))


class Block(nn.Module):
    """One layer: modulated attention, then a modulated feed-forward."""

    config: CogVideoXConfig
    dtype: Any
    attention_fn: Callable
    constrain: Constrain

    @nn.compact
    def __call__(self, x_BxTxD, temb_BxE, is_text_T, rotary, mask):
        config = self.config
        x, gate = ModulatedNorm(config, self.dtype, name="norm1")(x_BxTxD, is_text_T, temb_BxE)
        attention = JointAttention(config, self.dtype, self.attention_fn, name="attention")
        x_BxTxD = gated_sum(x_BxTxD, gate, attention(x, rotary, mask))

        x, gate = ModulatedNorm(config, self.dtype, name="norm2")(x_BxTxD, is_text_T, temb_BxE)
        hidden = nn.Dense(4 * config.width, dtype=self.dtype, name="ff_up")(x)
        hidden = nn.gelu(hidden, approximate=True)
        out = nn.Dense(config.width, dtype=self.dtype, name="ff_down")(hidden)
        return self.constrain(gated_sum(x_BxTxD, gate, out), TOKENS), None


class TimestepMLP(nn.Module):
    """Two dense layers over sinusoidal features of the timestep, float32."""

    width: int

    @nn.compact
    def __call__(self, features_BxF):
        hidden = nn.silu(nn.Dense(self.width, dtype=jnp.float32, name="linear_1")(features_BxF))
        return nn.Dense(self.width, dtype=jnp.float32, name="linear_2")(hidden)


class PatchEmbed(nn.Module):
    """Projects text and latent patches to the width; adds positions if the model is not rotary.

    The patch projection is a convolution whose stride is its window, computed as one matrix
    product; its kernel keeps the convolution's shape, as in the checkpoint.
    """

    config: CogVideoXConfig
    dtype: Any

    @nn.compact
    def __call__(
        self, latents_BxTxHxWxC: Float[Array, "B T H W C"], text_BxSxU: Float[Array, "B S U"]
    ) -> tuple[Float[Array, "B L D"], Float[Array, "B S D"]]:
        config = self.config
        text_BxSxD = nn.Dense(config.width, dtype=self.dtype, name="text_proj")(text_BxSxU)
        patches_BxLxP, kernel = self._patches_and_kernel(latents_BxTxHxWxC)
        x_BxLxD = patches_BxLxP.astype(self.dtype) @ kernel.astype(self.dtype)
        if config.patch_bias or config.patch_size_t is not None:
            x_BxLxD += self.param("bias", ZEROS, (config.width,)).astype(self.dtype)

        _, frames, height, width, _ = latents_BxTxHxWxC.shape
        latent_shape = (frames, height, width)
        if config.use_learned_positional_embeddings:
            learned_MxD, trained_shape = self._learned_positions()
            if latent_shape == trained_shape:
                text_end = config.max_text_seq_length
                return (
                    x_BxLxD + learned_MxD[text_end:].astype(self.dtype),
                    text_BxSxD + learned_MxD[: text_BxSxD.shape[1]].astype(self.dtype),
                )
        if config.use_learned_positional_embeddings or not config.use_rotary_positional_embeddings:
            x_BxLxD += video_positions.sinusoidal_table(
                config.width,
                config.grid(latent_shape),
                config.spatial_interpolation_scale,
                config.temporal_interpolation_scale,
            ).astype(self.dtype)
        return x_BxLxD, text_BxSxD

    def _patches_and_kernel(self, latents_BxTxHxWxC: Array) -> tuple[Array, Array]:
        """Return patches [B, L, P] and the kernel [P, D]."""
        config = self.config
        p = config.patch_size
        pt = config.patch_size_t
        batch, frames, height, width, channels = latents_BxTxHxWxC.shape
        t, h, w = config.grid((frames, height, width))
        if pt is None:
            patches = latents_BxTxHxWxC.reshape(batch, t, h, p, w, p, channels)
            patches = patches.transpose(0, 1, 2, 4, 3, 5, 6)
            init = nn.initializers.lecun_normal(in_axis=(0, 1, 2))
            kernel = self.param("kernel", init, (p, p, channels, config.width))
            kernel = kernel.reshape(-1, config.width)
        else:
            patches = latents_BxTxHxWxC.reshape(batch, t, pt, h, p, w, p, channels)
            patches = patches.transpose(0, 1, 3, 5, 7, 2, 4, 6)
            init = nn.initializers.lecun_normal()
            kernel = self.param("kernel", init, (channels * pt * p * p, config.width))
        return patches.reshape(batch, t * h * w, -1), kernel

    def _learned_positions(self) -> tuple[Array, tuple[int, int, int]]:
        """Return the learned table, text first, and the latent shape it was trained for."""
        config = self.config
        p = config.patch_size
        shape = (config.sample_latent_frames, config.sample_height, config.sample_width)
        tokens = config.max_text_seq_length + shape[0] * (shape[1] // p) * (shape[2] // p)
        init = nn.initializers.normal(0.02)
        return self.param("pos_embedding", init, (1, tokens, config.width))[0], shape


class CogVideoXTransformer(nn.Module):
    """Predicts from noisy latents, text and timestep (noise, sample or velocity, as trained).

    Attributes:
      dtype: of the matrix products; norms, modulation, rotary and softmax are float32.
      remat, unroll: see `scan_layers`.
      constrain: shards activations by their logical axes.
      token_multiple: the tokens are padded to a multiple of this, so that a mesh divides them.
    """

    config: CogVideoXConfig
    dtype: Any = jnp.float32
    attention_fn: Callable = dot_product_attention
    remat: bool = False
    unroll: int = 1
    constrain: Constrain = unconstrained
    token_multiple: int = 1

    @nn.compact
    def __call__(
        self,
        latents_BxTxHxWxC: Float[Array, "B T H W C"],
        text_BxSxU: Float[Array, "B S U"],
        timesteps_B: Int[Array, "B"] | Float[Array, "B"],
        rotary: tuple[Array, Array] | None = None,
        ofs_B: Float[Array, "B"] | None = None,
        residual: Float[Array, "B T D"] | None = None,
        keep_residual: bool = False,
    ) -> Float[Array, "B T H W O"] | tuple[Float[Array, "B T H W O"], Float[Array, "B T D"]]:
        """Return the prediction for the latents.

        Args:
          rotary: default: `config.rotary` of the latents' shape.
          ofs_B: condition of image-to-video models; None means `OFS_15`.
          residual: used in place of what all layers would add to the tokens; they are not run.
          keep_residual: also return what the layers added.
        """
        config = self.config
        _, frames, height, width, _ = latents_BxTxHxWxC.shape
        latent_shape = (frames, height, width)
        if rotary is None:
            rotary = config.rotary(latent_shape)
        temb_BxE = embed_timestep(config, timesteps_B, ofs_B)
        x_BxLxD, text_BxSxD = PatchEmbed(config, self.dtype, name="patch_embed")(
            latents_BxTxHxWxC, text_BxSxU
        )
        num_text = text_BxSxD.shape[1]
        num_tokens = num_text + x_BxLxD.shape[1]
        padding = -num_tokens % self.token_multiple
        x_BxTxD = jnp.concatenate([text_BxSxD, x_BxLxD], axis=1)
        x_BxTxD = jnp.pad(x_BxTxD, ((0, 0), (0, padding), (0, 0)))
        mask = FirstKeys(num_tokens) if padding else None
        is_text_T = jnp.arange(x_BxTxD.shape[1]) < num_text
        if rotary is not None:  # text and padding get an angle of zero
            cos, sin = rotary
            outside = ((num_text, padding), (0, 0))
            rotary = (jnp.pad(cos, outside, constant_values=1.0), jnp.pad(sin, outside))
        layers = scan_layers(Block, config.num_layers, self.unroll, self.remat)(
            config, self.dtype, self.attention_fn, self.constrain, name="layers"
        )
        start_BxTxD = self.constrain(x_BxTxD, TOKENS)
        if residual is None:
            end_BxTxD, _ = layers(start_BxTxD, temb_BxE, is_text_T, rotary, mask)
        else:
            end_BxTxD = start_BxTxD + residual
        # text and padding are dropped last, where tokens are narrow
        out_BxTxP = project_output(config, self.dtype, end_BxTxD, temb_BxE)
        output = unpatchify(config, out_BxTxP[:, num_text:num_tokens], latent_shape)
        return (output, end_BxTxD - start_BxTxD) if keep_residual else output


def embed_timestep(
    config: CogVideoXConfig, timesteps_B: Array, ofs_B: Array | None
) -> Float[Array, "B E"]:
    """Embed the timestep and, in models that have it, the `ofs` condition; in a compact module."""

    def features(x_B: Array, size: int) -> Array:
        return video_positions.timestep_features(
            x_B, size, config.flip_sin_to_cos, config.freq_shift
        )

    time_mlp = TimestepMLP(config.time_embed_dim, name="time_embedding")
    temb_BxE = time_mlp(features(timesteps_B, config.width))
    if config.ofs_embed_dim:
        if ofs_B is None:
            ofs_B = jnp.full(timesteps_B.shape, OFS_15)
        ofs_mlp = TimestepMLP(config.ofs_embed_dim, name="ofs_embedding")
        temb_BxE += ofs_mlp(features(ofs_B, config.ofs_embed_dim))
    return temb_BxE


def project_output(
    config: CogVideoXConfig, dtype: Any, x_BxTxD: Array, temb_BxE: Array
) -> Float[Array, "B T P"]:
    """Apply the final norms and project tokens to the values of a patch; in a compact module."""
    x_BxTxD = layer_norm(config, "norm_final")(x_BxTxD)
    width = 2 * config.width
    linear = nn.Dense(width, dtype=jnp.float32, kernel_init=ZEROS, name="out_modulation")
    shift, scale = jnp.split(linear(nn.silu(temb_BxE))[:, None, :], 2, axis=-1)
    x_BxTxD = layer_norm(config, "norm_out")(x_BxTxD) * (1 + scale) + shift
    patch_values = config.out_channels * config.patch_size**2 * (config.patch_size_t or 1)
    projection = nn.Dense(patch_values, dtype=dtype, kernel_init=ZEROS, name="proj_out")
    return projection(x_BxTxD.astype(dtype))


def unpatchify(
    config: CogVideoXConfig, x_BxLxP: Array, latent_shape: tuple[int, int, int]
) -> Float[Array, "B T H W O"]:
    """Arrange patches [B, L, O * patch_size_t * patch * patch], channels outermost, as latents."""
    p = config.patch_size
    pt = config.patch_size_t or 1
    t, h, w = config.grid(latent_shape)
    x = x_BxLxP.reshape(-1, t, h, w, config.out_channels, pt, p, p)
    x = x.transpose(0, 1, 5, 2, 6, 3, 7, 4)
    return x.reshape(-1, t * pt, h * p, w * p, config.out_channels)
