"""MPS: CLIP's two towers, then a small transformer in which image tokens attend to the prompt.

Source: Zhang et al. 2024 (CVPR), "Learning Multi-dimensional Human Preference for Text-to-Image
Generation", section 4; the order of operations follows Kwai-Kolors/MPS, trainer/models.

The condition is a text that lists what is to be judged. Prompt tokens that are not similar to any
of its tokens are masked, so that the score is a preference under that condition.

Shapes: B pairs of an image and a prompt, T text tokens, S image tokens (class token first), M
tokens of the condition, P CLIP's shared space, also the width of the cross layers, N heads, H head
size, F feed-forward width.
"""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pav_jax.models.attention.dot_product import dot_product_attention
from pav_jax.models.clip.model import CLIP, CLIPConfig, TextConfig, VisionConfig, normalise
from pav_jax.models.layers import LayerNorm, rotate, scan_layers
from pav_jax.typed_fields import Depth, NonNegative, Positive

# a token is not masked above this fraction of the prompt's best similarity
# (eval_overall_mps_on_hpdv2.py)
RELEVANT = 0.3


@dataclasses.dataclass(frozen=True)
class CrossConfig:
    """Sizes of the cross layers; defaults: the published checkpoint."""

    layers: Depth = 4
    heads: int = 16
    head_dim: int = 64
    ff_width: int = 4096
    norm_epsilon: NonNegative = 1e-5
    rope_theta: Positive = 10000.0


VIT_H14 = CLIPConfig(
    text=TextConfig(width=1024, ff_width=4096, layers=24, heads=16, activation="gelu"),
    vision=VisionConfig(width=1280, ff_width=5120, layers=32, heads=16, activation="gelu"),
    projection_dim=1024,
)


@dataclasses.dataclass(frozen=True)
class MPSConfig:
    """CLIP and the cross layers; defaults: the published checkpoint."""

    clip: CLIPConfig = VIT_H14
    cross: CrossConfig = CrossConfig()


def swiglu(fused: Float[Array, "... FF"]) -> Float[Array, "... F"]:
    """Gate the first half by the second (Shazeer 2020, arXiv 2002.05202); FF = 2 F."""
    value, gate = jnp.split(fused, 2, axis=-1)
    return value * jax.nn.silu(gate)


def _dense(features: int, dtype: Any, name: str) -> nn.Dense:
    return nn.Dense(features, use_bias=False, dtype=dtype, name=name)


class Reading(nn.Module):
    """Cross-attention from image tokens to the text, in parallel with a feed-forward.

    The image tokens are normed, the text is not.
    """

    config: CrossConfig
    dtype: Any
    attention_fn: Callable

    @nn.compact
    def __call__(self, x_BxSxP, text_BxTxP, mask_Bx1x1xT):
        c = self.config
        b, s, p = x_BxSxP.shape
        h_BxSxP = LayerNorm(c.norm_epsilon, dtype=self.dtype, name="norm")(x_BxSxP)
        q = _dense(c.heads * c.head_dim, self.dtype, "to_q")(h_BxSxP)
        q_BxSxNxH = q.reshape(b, s, c.heads, c.head_dim)
        # one head of keys and values for all heads of queries
        kv_BxTx1xHH = _dense(2 * c.head_dim, self.dtype, "to_kv")(text_BxTxP)[:, :, None]
        k_BxTx1xH, v_BxTx1xH = jnp.split(kv_BxTx1xHH, 2, axis=-1)
        attended = self.attention_fn(q_BxSxNxH, k_BxTx1xH, v_BxTx1xH, mask=mask_Bx1x1xT)
        attended = _dense(p, self.dtype, "to_out")(attended.reshape(b, s, -1))
        hidden = swiglu(_dense(2 * c.ff_width, self.dtype, "ff_in")(h_BxSxP))
        return x_BxSxP + attended + _dense(p, self.dtype, "ff_out")(hidden)


class Parallel(nn.Module):
    """Self-attention of image tokens in parallel with a feed-forward, as in GPT-J.

    One matrix product makes the inputs of both. Rotary positions number the image tokens in order,
    from 0 for the class token.
    """

    config: CrossConfig
    dtype: Any
    attention_fn: Callable

    @nn.compact
    def __call__(self, x_BxSxP):
        c = self.config
        b, s, p = x_BxSxP.shape
        h_BxSxP = LayerNorm(c.norm_epsilon, dtype=self.dtype, name="norm")(x_BxSxP)
        widths = (c.heads * c.head_dim, c.head_dim, c.head_dim, 2 * c.ff_width)
        splits = tuple(itertools.accumulate(widths))
        fused = _dense(splits[-1], self.dtype, "fused")(h_BxSxP)
        q, k, v, ff = jnp.split(fused, splits[:-1], axis=-1)
        rotary = rotary_table(c, s)
        q_BxSxNxH = rotate(q.reshape(b, s, c.heads, c.head_dim), rotary)
        k_BxSx1xH = rotate(k[:, :, None], rotary)
        v_BxSx1xH = v[:, :, None]
        attended = self.attention_fn(q_BxSxNxH, k_BxSx1xH, v_BxSx1xH).reshape(b, s, -1)
        attended = _dense(p, self.dtype, "attn_out")(attended)
        return x_BxSxP + attended + _dense(p, self.dtype, "ff_out")(swiglu(ff))


def rotary_table(
    config: CrossConfig, length: int
) -> tuple[Float[Array, "1 S 1 h"], Float[Array, "1 S 1 h"]]:
    """Return cos and sin of each position's angles, h = H / 2 (arXiv 2104.09864)."""
    half = config.head_dim // 2
    frequency_h = config.rope_theta ** -(jnp.arange(half, dtype=jnp.float32) / half)
    angle = jnp.arange(length, dtype=jnp.float32)[None, :, None, None] * frequency_h
    return jnp.cos(angle), jnp.sin(angle)


class CrossLayer(nn.Module):
    """One layer: cross-attention to the text, then self-attention."""

    config: CrossConfig
    dtype: Any
    attention_fn: Callable

    @nn.compact
    def __call__(self, x_BxSxP, text_BxTxP, mask_Bx1x1xT):
        options = (self.config, self.dtype, self.attention_fn)
        x_BxSxP = Reading(*options, name="reading")(x_BxSxP, text_BxTxP, mask_Bx1x1xT)
        return Parallel(*options, name="parallel")(x_BxSxP), None


def condition_mask(
    text_BxTxP: Float[Array, "B T P"], condition_MxP: Float[Array, "M P"]
) -> Bool[Array, "B T"]:
    """Return which tokens of each prompt the image attends to; True = attend.

    They are those whose best dot product with a token of the condition is more than RELEVANT times
    the prompt's largest. As in training, padding counts as tokens in both texts.
    """
    # Highest precision: with a TPU's default, tokens would cross the threshold.
    similarity_BxTxM = jnp.einsum(
        "btp,mp->btm", text_BxTxP, condition_MxP, precision=jax.lax.Precision.HIGHEST
    )
    best_BxT = similarity_BxTxM.max(-1)
    return best_BxT / best_BxT.max(-1, keepdims=True) > RELEVANT


class MPSModel(nn.Module):
    """The whole model.

    Call `model.init(key, ids, pixels, condition_ids)`, then the methods below through
    `model.apply(variables, ..., method=name)`.

    Attributes:
      dtype: of the matrix products; norms, softmax and the returned arrays are float32.
    """

    config: MPSConfig
    dtype: Any = jnp.float32
    attention_fn: Callable = dot_product_attention

    def setup(self):
        """Create CLIP and the stacked cross-attention layers."""
        self.clip = CLIP(self.config.clip, self.dtype, self.attention_fn)
        layers = scan_layers(CrossLayer, self.config.cross.layers)
        self.cross = layers(self.config.cross, self.dtype, self.attention_fn)

    def __call__(
        self,
        ids_BxT: Int[Array, "B T"],
        pixels_BxHxWxC: Float[Array, "B H W C"],
        condition_ids: Int[Array, "1 M"],
    ) -> Float[Array, "B"]:
        """Return the score of each image for its prompt.

        Args:
          ids_BxT: padded to all positions with the tokenizer's padding, as in training.
          pixels_BxHxWxC: resized and normalized.
          condition_ids: of the condition, padded in the same way.
        """
        text_BxTxP, end_BxP = self.encode_text(ids_BxT)
        mask_BxT = condition_mask(text_BxTxP, self.encode_text(condition_ids)[0][0])
        return self.compare(self.encode_image(pixels_BxHxWxC), text_BxTxP, end_BxP, mask_BxT)

    def encode_text(
        self, ids_BxT: Int[Array, "B T"]
    ) -> tuple[Float[Array, "B T P"], Float[Array, "B P"]]:
        """Return all projected tokens, and the one at the end of each text."""
        tokens_BxTxD = self.clip.text_tokens(ids_BxT)
        text_BxTxP = self.clip.project_text(tokens_BxTxD)
        return text_BxTxP, self.clip.pool_text(text_BxTxP, ids_BxT)

    def encode_image(self, pixels_BxHxWxC: Float[Array, "B H W C"]) -> Float[Array, "B S P"]:
        """Return all projected tokens, without CLIP's post norm."""
        return self.clip.project_image(self.clip.vision_tokens(pixels_BxHxWxC))

    def compare(
        self,
        image_BxSxP: Float[Array, "B S P"],
        text_BxTxP: Float[Array, "B T P"],
        end_BxP: Float[Array, "B P"],
        mask_BxT: Bool[Array, "B T"],
    ) -> Float[Array, "B"]:
        """Return exp(logit_scale) times the cosine of class token and end of text.

        Args:
          image_BxSxP: from `encode_image`; the class token is taken after the cross layers.
          text_BxTxP, end_BxP: from `encode_text`.
          mask_BxT: from `condition_mask`.
        """
        x_BxSxP, _ = self.cross(
            image_BxSxP.astype(self.dtype), text_BxTxP, mask_BxT[:, None, None, :]
        )
        class_BxP = normalise(x_BxSxP[:, 0].astype(jnp.float32))
        cosine_B = jnp.sum(normalise(end_BxP) * class_BxP, axis=-1)
        return jnp.exp(self.clip.logit_scale.astype(jnp.float32)) * cosine_B
