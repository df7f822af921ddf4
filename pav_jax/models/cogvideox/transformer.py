"""The CogVideoX denoiser: one transformer over text and video tokens together, modulated by the
timestep.

Source: Yang et al. 2024 (arXiv 2408.06072), section 2.2: expert adaptive norms (text and video are
shifted, scaled and gated apart), full 3-D attention, sinusoidal positions (2B) or 3-D rotary ones
(5B), query/key norms.

Text and video tokens are one row of tokens, text first, so that a mesh can cut it anywhere.

Shapes: B batch, C channels; S text tokens, L video tokens, T = S + L (and padding), D width, N
heads, K head size, E timestep embedding; where latents are meant, T, H, W are their frames, height
and width.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pav_jax.models.attention.dot_product import FirstKeys, dot_product_attention
from pav_jax.models.cogvideox import positions
from pav_jax.models.layers import LayerNorm, gated_sum

TOKENS = ("batch", "length", None)  # logical axes of the residual stream
ZEROS = (
    nn.initializers.zeros_init()
)  # modulation starts as the identity (arXiv 2212.09748, section 3.2, adaLN-Zero)


@dataclasses.dataclass(frozen=True)
class CogVideoXConfig:
    """Field names are diffusers' own (`CogVideoXTransformer3DModel`), so is their meaning.
    Defaults: CogVideoX-2B."""

    num_attention_heads: int = 30
    attention_head_dim: int = 64
    in_channels: int = 16
    out_channels: int = 16
    flip_sin_to_cos: bool = True
    freq_shift: int = 0
    time_embed_dim: int = 512
    ofs_embed_dim: int | None = None  # the extra condition of 1.5 image-to-video
    text_embed_dim: int = 4096
    num_layers: int = 30
    attention_bias: bool = True
    sample_width: int = 90
    sample_height: int = 60
    sample_frames: int = 49
    patch_size: int = 2
    patch_size_t: int | None = None  # 2 in version 1.5
    temporal_compression_ratio: int = 4
    max_text_seq_length: int = 226
    norm_elementwise_affine: bool = True
    norm_eps: float = 1e-5
    spatial_interpolation_scale: float = 1.875
    temporal_interpolation_scale: float = 1.0
    use_rotary_positional_embeddings: bool = False
    use_learned_positional_embeddings: bool = False
    patch_bias: bool = True

    @property
    def width(self) -> int:
        return self.num_attention_heads * self.attention_head_dim

    @property
    def sample_latent_frames(self) -> int:
        return (self.sample_frames - 1) // self.temporal_compression_ratio + 1

    def grid(self, latent_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Patch grid (t, h, w) of latents [T, H, W]."""
        t, h, w = latent_shape
        return -(-t // (self.patch_size_t or 1)), h // self.patch_size, w // self.patch_size

    def rotary(self, latent_shape: tuple[int, int, int]) -> tuple[Array, Array] | None:
        """(cos, sin), each [L, K/2], for latents [T, H, W]; None for a model without rotary
        positions."""
        if not self.use_rotary_positional_embeddings:
            return None
        base = (self.sample_height // self.patch_size, self.sample_width // self.patch_size)
        return positions.rotary_tables(
            self.attention_head_dim,
            self.grid(latent_shape),
            base if self.patch_size_t is None else None,
        )


def layer_norm(config: CogVideoXConfig, name: str) -> LayerNorm:
    return LayerNorm(config.norm_eps, config.norm_elementwise_affine, name=name)


class ModulatedNorm(nn.Module):
    """Layer norm whose shift and scale come from the timestep, apart for text and video; also
    returns the gate."""

    config: CogVideoXConfig
    dtype: Any

    @nn.compact
    def __call__(self, x_BxTxD, is_text_T, temb_BxE):
        linear = nn.Dense(
            6 * self.config.width, dtype=jnp.float32, kernel_init=ZEROS, name="linear"
        )
        parts = jnp.split(linear(nn.silu(temb_BxE))[:, None, :], 6, axis=-1)
        shift, scale, gate = (
            jnp.where(is_text_T[None, :, None], text, video)
            for video, text in zip(parts[:3], parts[3:], strict=True)
        )
        x_BxTxD = layer_norm(self.config, "norm")(x_BxTxD) * (1 + scale) + shift
        return x_BxTxD.astype(self.dtype), gate


class JointAttention(nn.Module):
    """Self-attention over [text, video]; queries and keys are layer-normed per head, then
    rotated."""

    config: CogVideoXConfig
    dtype: Any
    attention_fn: Callable

    @nn.compact
    def __call__(self, x_BxTxD, rotary, mask):
        config = self.config
        heads = (*x_BxTxD.shape[:2], config.num_attention_heads, config.attention_head_dim)
        dense = lambda name: nn.Dense(  # noqa: E731
            config.width, use_bias=config.attention_bias, dtype=self.dtype, name=name
        )(x_BxTxD).reshape(heads)
        norm = lambda name, x: LayerNorm(1e-6, name=name)(x)  # noqa: E731
        q_BxTxNxK, k_BxTxNxK = norm("q_norm", dense("q_proj")), norm("k_norm", dense("k_proj"))
        if rotary is not None:
            q_BxTxNxK, k_BxTxNxK = (
                positions.rotate(q_BxTxNxK, rotary),
                positions.rotate(k_BxTxNxK, rotary),
            )
        out_BxTxNxK = self.attention_fn(
            q_BxTxNxK.astype(self.dtype), k_BxTxNxK.astype(self.dtype), dense("v_proj"), mask
        )
        return nn.Dense(config.width, dtype=self.dtype, name="o_proj")(
            out_BxTxNxK.reshape(x_BxTxD.shape)
        )


class Block(nn.Module):
    config: CogVideoXConfig
    dtype: Any
    attention_fn: Callable
    constrain: Callable

    @nn.compact
    def __call__(self, x_BxTxD, temb_BxE, is_text_T, rotary, mask):
        x, gate = ModulatedNorm(self.config, self.dtype, name="norm1")(x_BxTxD, is_text_T, temb_BxE)
        out = JointAttention(self.config, self.dtype, self.attention_fn, name="attention")(
            x, rotary, mask
        )
        x_BxTxD = gated_sum(x_BxTxD, gate, out)

        x, gate = ModulatedNorm(self.config, self.dtype, name="norm2")(x_BxTxD, is_text_T, temb_BxE)
        hidden = nn.Dense(4 * self.config.width, dtype=self.dtype, name="ff_up")(x)
        out = nn.Dense(self.config.width, dtype=self.dtype, name="ff_down")(
            nn.gelu(hidden, approximate=True)
        )
        return self.constrain(gated_sum(x_BxTxD, gate, out), TOKENS), None


class TimestepMLP(nn.Module):
    width: int

    @nn.compact
    def __call__(self, features_BxF):
        hidden = nn.silu(nn.Dense(self.width, dtype=jnp.float32, name="linear_1")(features_BxF))
        return nn.Dense(self.width, dtype=jnp.float32, name="linear_2")(hidden)


class PatchEmbed(nn.Module):
    """Text and latent patches to width, each as one matrix product; adds the positions of a model
    without rotary."""

    config: CogVideoXConfig
    dtype: Any

    @nn.compact
    def __call__(self, latents_BxTxHxWxC, text_BxSxU):
        config, p = self.config, self.config.patch_size
        batch, frames, height, width, channels = latents_BxTxHxWxC.shape
        t, h, w = grid = config.grid((frames, height, width))
        text_BxSxD = nn.Dense(config.width, dtype=self.dtype, name="text_proj")(text_BxSxU)
        if config.patch_size_t is None:
            patches = latents_BxTxHxWxC.reshape(batch, t, h, p, w, p, channels).transpose(
                0, 1, 2, 4, 3, 5, 6
            )
            # a convolution whose stride is its window; the kernel keeps the convolution's shape for
            # its name's sake
            kernel = self.param(
                "kernel",
                nn.initializers.lecun_normal(in_axis=(0, 1, 2)),
                (p, p, channels, config.width),
            ).reshape(-1, config.width)
        else:
            pt = config.patch_size_t
            patches = latents_BxTxHxWxC.reshape(batch, t, pt, h, p, w, p, channels).transpose(
                0, 1, 3, 5, 7, 2, 4, 6
            )
            kernel = self.param(
                "kernel", nn.initializers.lecun_normal(), (channels * pt * p * p, config.width)
            )
        x_BxLxD = patches.reshape(batch, t * h * w, -1).astype(self.dtype) @ kernel.astype(
            self.dtype
        )
        if config.patch_bias or config.patch_size_t is not None:
            x_BxLxD += self.param("bias", ZEROS, (config.width,)).astype(self.dtype)

        learned_MxD = None
        if config.use_learned_positional_embeddings:
            sample = (config.sample_latent_frames, config.sample_height, config.sample_width)
            tokens = config.max_text_seq_length + sample[0] * (sample[1] // p) * (sample[2] // p)
            learned_MxD = self.param(
                "pos_embedding", nn.initializers.normal(0.02), (1, tokens, config.width)
            )[0]
            if (frames, height, width) == sample:
                return (
                    x_BxLxD + learned_MxD[config.max_text_seq_length :].astype(self.dtype),
                    text_BxSxD + learned_MxD[: text_BxSxD.shape[1]].astype(self.dtype),
                )
        if learned_MxD is not None or not config.use_rotary_positional_embeddings:
            x_BxLxD += positions.sinusoidal_table(
                config.width,
                grid,
                config.spatial_interpolation_scale,
                config.temporal_interpolation_scale,
            ).astype(self.dtype)
        return x_BxLxD, text_BxSxD


class CogVideoXTransformer(nn.Module):
    """Noisy latents, text and timestep to the model's prediction (noise, sample or velocity, as it
    was trained).

    Attributes:
      dtype: compute type of the matrix products; norms, modulation, rotary and softmax stay in
        float32.
      remat: recompute each layer in the backward pass instead of keeping its activations.
      unroll: layers per step of the scan; `config.num_layers` unrolls it wholly (faster on CPU,
        slower to compile).
      constrain: keeps an array where its logical axes belong, on a mesh.
      token_multiple: the tokens are padded to a multiple of it, for a mesh that cuts them evenly.
    """

    config: CogVideoXConfig
    dtype: Any = jnp.float32
    attention_fn: Callable = dot_product_attention
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
        rotary: tuple[Array, Array] | None = None,
        ofs_B: Float[Array, "B"] | None = None,
        residual: Float[Array, "B T D"] | None = None,
        keep_residual: bool = False,
    ) -> Float[Array, "B T H W O"] | tuple[Float[Array, "B T H W O"], Float[Array, "B T D"]]:
        """`rotary` defaults to `config.rotary(latents.shape[1:4])`; `ofs_B` is read only where the
        model has it.

        Args:
          residual: stands for what all layers would add to the row of tokens; they are not run.
          keep_residual: also return what they added.
        """
        config = self.config
        batch, frames, height, width, _ = latents_BxTxHxWxC.shape
        if rotary is None:
            rotary = config.rotary((frames, height, width))

        features = positions.timestep_features(
            timesteps_B, config.width, config.flip_sin_to_cos, config.freq_shift
        )
        temb_BxE = TimestepMLP(config.time_embed_dim, name="time_embedding")(features)
        if config.ofs_embed_dim:
            ofs_B = (
                jnp.full((batch,), 2.0) if ofs_B is None else ofs_B
            )  # the value CogVideoX 1.5 samples with
            features = positions.timestep_features(
                ofs_B, config.ofs_embed_dim, config.flip_sin_to_cos, config.freq_shift
            )
            temb_BxE += TimestepMLP(config.ofs_embed_dim, name="ofs_embedding")(features)

        x_BxLxD, text_BxSxD = PatchEmbed(config, self.dtype, name="patch_embed")(
            latents_BxTxHxWxC, text_BxSxU
        )
        text, video = text_BxSxD.shape[1], x_BxLxD.shape[1]
        padding = -(text + video) % self.token_multiple
        x_BxTxD = jnp.pad(
            jnp.concatenate([text_BxSxD, x_BxLxD], axis=1), ((0, 0), (0, padding), (0, 0))
        )
        mask = FirstKeys(text + video) if padding else None
        is_text_T = jnp.arange(x_BxTxD.shape[1]) < text
        if rotary is not None:  # only video is rotated: an angle of zero changes nothing
            rotary = tuple(
                jnp.pad(table, ((text, padding), (0, 0)), constant_values=still)
                for table, still in zip(rotary, (1.0, 0.0), strict=True)
            )
        block = nn.remat(Block, prevent_cse=False) if self.remat else Block
        stack = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(nn.broadcast,) * 4,
            length=config.num_layers,
            unroll=self.unroll,
        )(config, self.dtype, self.attention_fn, self.constrain, name="layers")
        start_BxTxD = self.constrain(x_BxTxD, TOKENS)
        if residual is None:
            x_BxTxD, _ = stack(start_BxTxD, temb_BxE, is_text_T, rotary, mask)
        else:
            x_BxTxD = start_BxTxD + residual
        added_BxTxD = x_BxTxD - start_BxTxD if keep_residual else None

        x_BxTxD = layer_norm(config, "norm_final")(x_BxTxD)
        linear = nn.Dense(
            2 * config.width, dtype=jnp.float32, kernel_init=ZEROS, name="out_modulation"
        )
        shift, scale = jnp.split(linear(nn.silu(temb_BxE))[:, None, :], 2, axis=-1)
        x_BxTxD = layer_norm(config, "norm_out")(x_BxTxD) * (1 + scale) + shift
        pixels = config.out_channels * config.patch_size**2 * (config.patch_size_t or 1)
        x_BxTxP = nn.Dense(pixels, dtype=self.dtype, kernel_init=ZEROS, name="proj_out")(
            x_BxTxD.astype(self.dtype)
        )
        # text and padding go last, where tokens are narrow
        output = unpatchify(config, x_BxTxP[:, text : text + video], (frames, height, width))
        return (output, added_BxTxD) if keep_residual else output


def unpatchify(
    config: CogVideoXConfig, x_BxLxP: Array, latent_shape: tuple[int, int, int]
) -> Array:
    """[B, L, C * (patch_size_t) * patch * patch], channels outermost, to [B, T, H, W, C]."""
    p, pt = config.patch_size, config.patch_size_t or 1
    t, h, w = config.grid(latent_shape)
    x = x_BxLxP.reshape(-1, t, h, w, config.out_channels, pt, p, p)
    return x.transpose(0, 1, 5, 2, 6, 3, 7, 4).reshape(
        -1, t * pt, h * p, w * p, config.out_channels
    )
