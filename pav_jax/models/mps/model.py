"""MPS: CLIP's two towers without pooling, then a small transformer in which the image tokens read
the prompt's tokens.

Source: Zhang et al. 2024 (CVPR), "Learning Multi-dimensional Human Preference for Text-to-Image
Generation", section 4; the order of operations follows Kwai-Kolors/MPS, trainer/models.

The condition is a text that lists what a judge may look at. Prompt tokens that resemble none of its
tokens are hidden from the image, so the score is a preference under that condition.

Shapes: B pairs of an image and a prompt, T text tokens, S image tokens (class token first), M
tokens of the condition, P CLIP's shared space, which is the cross layers' width too, N heads, H
head size, F feed-forward width.
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
from pav_jax.models.layers import LayerNorm, rotate

# a token stays in sight above this share of the prompt's best similarity:
# eval_overall_mps_on_hpdv2.py
RELEVANT = 0.3


@dataclasses.dataclass(frozen=True)
class CrossConfig:
    """Sizes of the cross layers; defaults: the published checkpoint's."""

    layers: int = 4
    heads: int = 16
    head_dim: int = 64
    ff_width: int = 4096
    norm_epsilon: float = 1e-5
    rope_theta: float = 10000.0


VIT_H14 = CLIPConfig(
    text=TextConfig(width=1024, ff_width=4096, layers=24, heads=16, activation="gelu"),
    vision=VisionConfig(width=1280, ff_width=5120, layers=32, heads=16, activation="gelu"),
    projection_dim=1024,
)


@dataclasses.dataclass(frozen=True)
class MPSConfig:
    clip: CLIPConfig = VIT_H14
    cross: CrossConfig = CrossConfig()


def swiglu(fused: Float[Array, "... FF"]) -> Float[Array, "... F"]:
    """The second half gates the first (Shazeer 2020); FF is 2 F."""
    value, gate = jnp.split(fused, 2, axis=-1)
    return value * jax.nn.silu(gate)


class Reading(nn.Module):
    """Image tokens attend to the text, which is not normalised; a feed-forward of the image tokens
    runs beside it."""

    config: CrossConfig
    dtype: Any
    attention_fn: Callable

    @nn.compact
    def __call__(self, x_BxSxP, text_BxTxP, mask_Bx1x1xT):
        c, (b, s, p) = self.config, x_BxSxP.shape
        dense = lambda width, name: nn.Dense(width, use_bias=False, dtype=self.dtype, name=name)  # noqa: E731
        h_BxSxP = LayerNorm(c.norm_epsilon, dtype=self.dtype, name="norm")(x_BxSxP)
        q_BxSxNxH = dense(c.heads * c.head_dim, "to_q")(h_BxSxP).reshape(b, s, c.heads, c.head_dim)
        kv_BxTx1xHH = dense(2 * c.head_dim, "to_kv")(text_BxTxP)[
            :, :, None
        ]  # one head, for all N queries
        k_BxTx1xH, v_BxTx1xH = jnp.split(kv_BxTx1xHH, 2, axis=-1)
        read = self.attention_fn(q_BxSxNxH, k_BxTx1xH, v_BxTx1xH, mask=mask_Bx1x1xT).reshape(
            b, s, -1
        )
        beside = dense(p, "ff_out")(swiglu(dense(2 * c.ff_width, "ff_in")(h_BxSxP)))
        return x_BxSxP + dense(p, "to_out")(read) + beside


class Parallel(nn.Module):
    """Attention among the image tokens beside a feed-forward, both fed by one product (GPT-J's
    arrangement). The only
    place with rotary positions: they number the image tokens in order, the class token 0."""

    config: CrossConfig
    dtype: Any
    attention_fn: Callable

    @nn.compact
    def __call__(self, x_BxSxP):
        c, (b, s, p) = self.config, x_BxSxP.shape
        dense = lambda width, name: nn.Dense(width, use_bias=False, dtype=self.dtype, name=name)  # noqa: E731
        widths = (c.heads * c.head_dim, c.head_dim, c.head_dim, 2 * c.ff_width)
        h_BxSxP = LayerNorm(c.norm_epsilon, dtype=self.dtype, name="norm")(x_BxSxP)
        cuts = tuple(itertools.accumulate(widths))
        q, k, v, ff = jnp.split(dense(cuts[-1], "fused")(h_BxSxP), cuts[:-1], axis=-1)
        rotary = rotary_table(c, s)
        q_BxSxNxH = rotate(q.reshape(b, s, c.heads, c.head_dim), rotary)
        k_BxSx1xH, v_BxSx1xH = rotate(k[:, :, None], rotary), v[:, :, None]
        mixed = self.attention_fn(q_BxSxNxH, k_BxSx1xH, v_BxSx1xH).reshape(b, s, -1)
        return x_BxSxP + dense(p, "attn_out")(mixed) + dense(p, "ff_out")(swiglu(ff))


def rotary_table(
    config: CrossConfig, length: int
) -> tuple[Float[Array, "1 S 1 h"], Float[Array, "1 S 1 h"]]:
    """cos and sin of each position's angles, h = H / 2 (Su et al. 2021)."""
    half = config.head_dim // 2
    frequency_h = config.rope_theta ** -(jnp.arange(half, dtype=jnp.float32) / half)
    angle_1xSx1xh = jnp.arange(length, dtype=jnp.float32)[None, :, None, None] * frequency_h
    return jnp.cos(angle_1xSx1xh), jnp.sin(angle_1xSx1xh)


class CrossLayer(nn.Module):
    config: CrossConfig
    dtype: Any
    attention_fn: Callable

    @nn.compact
    def __call__(self, x_BxSxP, text_BxTxP, mask_Bx1x1xT):
        fields = (self.config, self.dtype, self.attention_fn)
        x_BxSxP = Reading(*fields, name="reading")(x_BxSxP, text_BxTxP, mask_Bx1x1xT)
        return Parallel(*fields, name="parallel")(x_BxSxP), None


def condition_mask(
    text_BxTxP: Float[Array, "B T P"], condition_MxP: Float[Array, "M P"]
) -> Bool[Array, "B T"]:
    """Which tokens of each prompt the image may read: those whose best dot product with a token of
    the condition is more than RELEVANT of the prompt's largest. Padding counts as tokens on both
    sides, as it did in training.
    """
    # a threshold: the default precision of a TPU's products would move tokens across it
    similarity_BxTxM = jnp.einsum(
        "btp,mp->btm", text_BxTxP, condition_MxP, precision=jax.lax.Precision.HIGHEST
    )
    best_BxT = similarity_BxTxM.max(-1)
    return best_BxT / best_BxT.max(-1, keepdims=True) > RELEVANT


class MPSModel(nn.Module):
    """`model.init(key, ids, pixels, condition_ids)`; the methods below through
    `apply(..., method=name)`.

    Attributes:
      dtype: compute type of the matrix products; norms, softmax and what the methods return stay in
        float32.
    """

    config: MPSConfig
    dtype: Any = jnp.float32
    attention_fn: Callable = dot_product_attention

    def setup(self):
        self.clip = CLIP(self.config.clip, self.dtype, self.attention_fn)
        stack = nn.scan(
            CrossLayer,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=self.config.cross.layers,
        )
        self.cross = stack(self.config.cross, self.dtype, self.attention_fn)

    def __call__(
        self,
        ids_BxT: Int[Array, "B T"],
        pixels_BxHxWxC: Float[Array, "B H W C"],
        condition_ids_1xM: Int[Array, "1 M"],
    ) -> Float[Array, "B"]:
        """The score of each image for its prompt. Pixels are resized and normalised; ids are padded
        as in training, to every position, with the tokenizer's own padding."""
        text_BxTxP, end_BxP = self.encode_text(ids_BxT)
        mask_BxT = condition_mask(text_BxTxP, self.encode_text(condition_ids_1xM)[0][0])
        return self.compare(self.encode_image(pixels_BxHxWxC), text_BxTxP, end_BxP, mask_BxT)

    def encode_text(
        self, ids_BxT: Int[Array, "B T"]
    ) -> tuple[Float[Array, "B T P"], Float[Array, "B P"]]:
        """Every projected token, and the one at the end of the text."""
        tokens_BxTxD = self.clip.text_tokens(ids_BxT)
        text_BxTxP = self.clip.project_text(tokens_BxTxD)
        return text_BxTxP, self.clip.pool_text(text_BxTxP, ids_BxT)

    def encode_image(self, pixels_BxHxWxC: Float[Array, "B H W C"]) -> Float[Array, "B S P"]:
        """Every projected token; CLIP's post norm is left out."""
        return self.clip.project_image(self.clip.vision_tokens(pixels_BxHxWxC))

    def compare(
        self,
        image_BxSxP: Float[Array, "B S P"],
        text_BxTxP: Float[Array, "B T P"],
        end_BxP: Float[Array, "B P"],
        mask_BxT: Bool[Array, "B T"],
    ) -> Float[Array, "B"]:
        """exp(logit_scale) times the cosine of the text's end and the class token that has read the
        text."""
        x_BxSxP, _ = self.cross(
            image_BxSxP.astype(self.dtype), text_BxTxP, mask_BxT[:, None, None, :]
        )
        class_BxP = normalise(x_BxSxP[:, 0].astype(jnp.float32))
        cosine_B = jnp.sum(normalise(end_BxP) * class_BxP, axis=-1)
        return jnp.exp(self.clip.logit_scale.astype(jnp.float32)) * cosine_B
