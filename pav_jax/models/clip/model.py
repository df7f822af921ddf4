"""CLIP: a text and a vision transformer whose pooled, projected outputs share one space.

Source: Radford et al. 2021 (arXiv 2103.00020), section 2.4; which position is pooled and where the
norms are follow transformers' `CLIPModel`.

Shapes: B batch, T text tokens, S image tokens (class token first), H, W pixels, C channels, D
width, F feed-forward width, P dimensions of the shared space.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pav_jax.models.attention.dot_product import dot_product_attention
from pav_jax.models.layers import ACTIVATIONS, LayerNorm, scan_layers
from pav_jax.typed_fields import Depth, NonNegative, TokenId

# checkpoints converted before 2023 have this wrong eos_id; the end of their texts is the largest id
LEGACY_EOS = 2


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """Sizes of the text tower; defaults: ViT-L/14."""

    vocab_size: int = 49408
    width: int = 768
    ff_width: int = 3072
    layers: Depth = 12
    heads: int = 12
    positions: int = 77
    activation: str = "quick_gelu"
    norm_epsilon: NonNegative = 1e-5
    bos_id: TokenId | None = 49406
    eos_id: TokenId | None = 49407
    pad_id: TokenId | None = 1


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """Sizes of the vision tower; images and patches are squares; defaults: ViT-L/14.

    Attributes:
      image_size, patch_size: height and width in pixels.
    """

    width: int = 1024
    ff_width: int = 4096
    layers: Depth = 24
    heads: int = 16
    channels: int = 3
    image_size: int = 224
    patch_size: int = 14
    activation: str = "quick_gelu"
    norm_epsilon: NonNegative = 1e-5

    @property
    def tokens(self) -> int:
        """Number of image tokens, the class token included."""
        return (self.image_size // self.patch_size) ** 2 + 1


@dataclasses.dataclass(frozen=True)
class CLIPConfig:
    """Both towers and the shared space."""

    text: TextConfig = TextConfig()
    vision: VisionConfig = VisionConfig()
    projection_dim: int = 768
    logit_scale_init: float = 2.6592  # ln(1 / 0.07), section 2.5


class Attention(nn.Module):
    """Multi-head self-attention."""

    config: Any
    dtype: Any
    attention_fn: Callable

    @nn.compact
    def __call__(self, x_BxTxD, mask):
        b, t, d = x_BxTxD.shape
        heads = (b, t, self.config.heads, d // self.config.heads)
        q, k, v = (
            nn.Dense(d, dtype=self.dtype, name=name)(x_BxTxD).reshape(heads)
            for name in ("q_proj", "k_proj", "v_proj")
        )
        out = self.attention_fn(q, k, v, mask=mask).reshape(b, t, d)
        return nn.Dense(d, dtype=self.dtype, name="out_proj")(out)


class Block(nn.Module):
    """One layer of either tower: pre-norm attention and feed-forward."""

    config: Any
    dtype: Any
    attention_fn: Callable

    @nn.compact
    def __call__(self, x_BxTxD, mask):
        config = self.config
        attention = Attention(config, self.dtype, self.attention_fn, name="attention")
        h_BxTxD = LayerNorm(config.norm_epsilon, dtype=self.dtype, name="norm1")(x_BxTxD)
        x_BxTxD += attention(h_BxTxD, mask)
        h_BxTxD = LayerNorm(config.norm_epsilon, dtype=self.dtype, name="norm2")(x_BxTxD)
        h_BxTxF = nn.Dense(config.ff_width, dtype=self.dtype, name="fc1")(h_BxTxD)
        h_BxTxF = ACTIVATIONS[config.activation](h_BxTxF)
        return x_BxTxD + nn.Dense(x_BxTxD.shape[-1], dtype=self.dtype, name="fc2")(h_BxTxF), None


def scan_tower(config: Any, remat: bool, unroll: bool) -> Callable[..., Any]:
    """Return the module class of a tower's layers; see `scan_layers`.

    Args:
      config: of the tower: `TextConfig`, `VisionConfig` or another with the same fields.
    """
    return scan_layers(Block, config.layers, config.layers if unroll else 1, remat)


class TextTower(nn.Module):
    """Token ids to hidden states after the final norm; attributes as in `CLIP`."""

    config: TextConfig
    dtype: Any
    attention_fn: Callable
    remat: bool
    unroll: bool

    @nn.compact
    def __call__(self, input_ids_BxT, attention_mask_BxT=None):
        config = self.config
        t = input_ids_BxT.shape[1]
        embed = nn.Embed(
            config.vocab_size,
            config.width,
            dtype=self.dtype,
            name="token_embedding",
            embedding_init=nn.initializers.normal(0.02),
        )
        positions = self.param(
            "position_embedding", nn.initializers.normal(0.02), (config.positions, config.width)
        )
        x_BxTxD = embed(input_ids_BxT) + positions[:t].astype(self.dtype)
        mask = jnp.tril(jnp.ones((t, t), bool))[None, None]
        if attention_mask_BxT is not None:
            mask = mask & attention_mask_BxT.astype(bool)[:, None, None, :]
        layers = scan_tower(config, self.remat, self.unroll)(
            config, self.dtype, self.attention_fn, name="layers"
        )
        x_BxTxD, _ = layers(x_BxTxD, mask)
        return LayerNorm(config.norm_epsilon, dtype=self.dtype, name="final_norm")(x_BxTxD)


class VisionTower(nn.Module):
    """Pixels to hidden states, class token first; attributes as in `CLIP`."""

    config: VisionConfig
    dtype: Any
    attention_fn: Callable
    remat: bool
    unroll: bool

    @nn.compact
    def __call__(self, pixels_BxHxWxC):
        config = self.config
        p = config.patch_size
        b = pixels_BxHxWxC.shape[0]
        side = config.image_size // p
        kernel = self.param(
            "patch_embedding", nn.initializers.normal(0.02), (p, p, config.channels, config.width)
        )
        classes = self.param(
            "class_embedding", nn.initializers.normal(config.width**-0.5), (config.width,)
        )
        positions = self.param(
            "position_embedding", nn.initializers.normal(0.02), (config.tokens, config.width)
        )
        # Patches do not overlap, so the convolution is one matrix product over flattened patches.
        x = pixels_BxHxWxC[:, : side * p, : side * p].astype(self.dtype)
        x = x.reshape(b, side, p, side, p, config.channels).transpose(0, 1, 3, 2, 4, 5)
        x = x.reshape(b, side * side, -1)
        x = x @ kernel.reshape(-1, config.width).astype(self.dtype)
        class_token = jnp.broadcast_to(classes.astype(self.dtype), (b, 1, config.width))
        x_BxSxD = jnp.concatenate([class_token, x], axis=1) + positions.astype(self.dtype)
        x_BxSxD = LayerNorm(config.norm_epsilon, dtype=self.dtype, name="pre_norm")(x_BxSxD)
        layers = scan_tower(config, self.remat, self.unroll)(
            config, self.dtype, self.attention_fn, name="layers"
        )
        return layers(x_BxSxD, None)[0]


class CLIP(nn.Module):
    """Both towers.

    Call `model.init(key, input_ids, pixels)`, then the methods below through
    `model.apply(variables, ..., method=name)`.

    Attributes:
      dtype: of the matrix products; norms, softmax and the returned arrays are float32.
      remat: recompute each layer in the backward pass instead of storing its activations.
      unroll: no loop over the layers (faster on CPU, slower to compile).
    """

    config: CLIPConfig
    dtype: Any = jnp.float32
    attention_fn: Callable = dot_product_attention
    remat: bool = False
    unroll: bool = False

    def setup(self):
        """Create the two towers, the projections without bias, and the logit scale."""
        config = self.config
        self.text = TextTower(config.text, self.dtype, self.attention_fn, self.remat, self.unroll)
        self.vision = VisionTower(
            config.vision, self.dtype, self.attention_fn, self.remat, self.unroll
        )
        self.vision_norm = LayerNorm(config.vision.norm_epsilon, dtype=self.dtype)
        self.text_projection = nn.Dense(config.projection_dim, use_bias=False, dtype=self.dtype)
        self.visual_projection = nn.Dense(config.projection_dim, use_bias=False, dtype=self.dtype)
        self.logit_scale = self.param(
            "logit_scale", nn.initializers.constant(config.logit_scale_init), ()
        )

    def __call__(
        self, input_ids_BxT: Int[Array, "B T"], pixels_BxHxWxC: Float[Array, "B H W C"]
    ) -> tuple[Float[Array, "B P"], Float[Array, "B P"], Float[Array, ""]]:
        """Return the inputs of a contrastive loss.

        Returns:
          Projected text and image embeddings, not normalized, and exp(logit_scale).
        """
        return (
            self.encode_text(input_ids_BxT),
            self.encode_image(pixels_BxHxWxC),
            jnp.exp(self.logit_scale),
        )

    def text_tokens(
        self, input_ids_BxT: Int[Array, "B T"], attention_mask_BxT: Bool[Array, "B T"] | None = None
    ) -> Float[Array, "B T D"]:
        """Return every position's hidden state after the final norm.

        Attention is causal, so padding on the right needs no mask.
        """
        return self.text(input_ids_BxT, attention_mask_BxT).astype(jnp.float32)

    def vision_tokens(self, pixels_BxHxWxC: Float[Array, "B H W C"]) -> Float[Array, "B S D"]:
        """Return the hidden states of class token and patches before the post norm.

        Args:
          pixels_BxHxWxC: normalized.
        """
        return self.vision(pixels_BxHxWxC).astype(jnp.float32)

    def pool_text(self, tokens_BxTxD: Array, input_ids_BxT: Array) -> Float[Array, "B D"]:
        """Return the hidden state at the first `eos_id`; the largest id in legacy checkpoints."""
        eos = self.config.text.eos_id
        end_B = jnp.argmax(input_ids_BxT if eos == LEGACY_EOS else input_ids_BxT == eos, axis=1)
        return jnp.take_along_axis(tokens_BxTxD, end_B[:, None, None], axis=1)[:, 0]

    def pool_image(self, tokens_BxSxD: Array) -> Float[Array, "B D"]:
        """Return the class token after the post norm."""
        return self.vision_norm(tokens_BxSxD[:, 0]).astype(jnp.float32)

    def project_text(self, x: Float[Array, "... D"]) -> Float[Array, "... P"]:
        """Project text features to the shared space."""
        return self.text_projection(x).astype(jnp.float32)

    def project_image(self, x: Float[Array, "... D"]) -> Float[Array, "... P"]:
        """Project image features to the shared space."""
        return self.visual_projection(x).astype(jnp.float32)

    def encode_text(
        self, input_ids_BxT: Int[Array, "B T"], attention_mask_BxT: Bool[Array, "B T"] | None = None
    ) -> Float[Array, "B P"]:
        """Return the projected embedding of each text, not normalized.

        Args:
          input_ids_BxT: T is at most `config.text.positions`.
        """
        return self.project_text(
            self.pool_text(self.text_tokens(input_ids_BxT, attention_mask_BxT), input_ids_BxT)
        )

    def encode_image(self, pixels_BxHxWxC: Float[Array, "B H W C"]) -> Float[Array, "B P"]:
        """Return the projected embedding of each image, not normalized.

        Args:
          pixels_BxHxWxC: resized and normalized.
        """
        return self.project_image(self.pool_image(self.vision_tokens(pixels_BxHxWxC)))


def normalise(x: Float[Array, "... P"]) -> Float[Array, "... P"]:
    """Scale vectors to unit length; a zero vector stays zero instead of becoming NaN."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(x), axis=-1, keepdims=True), 1e-24))
