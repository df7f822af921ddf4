"""From the vision tower to the language model: a projection to its width, then a perceiver
resampler, which turns any number of patches into a fixed number of tokens (Jaegle et al. 2021,
arXiv 2103.03206; Idefics2: Laurencon et al. 2024, arXiv 2405.02246, section 3.2).

Shapes: N images, P patches, S latents, D the language model's width, Q heads, K key/value heads, H
head size.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pav_jax.models.layers import ACTIVATIONS, RMSNorm

EXPANSION = 4  # of the resampler's feed-forward: 4 D, fixed in the original


@dataclasses.dataclass(frozen=True)
class PerceiverConfig:
    """Sizes of the resampler; its width is the language model's. Defaults: Idefics2-8B's."""

    latents: int = 64
    depth: int = 3
    heads: int = 16
    kv_heads: int = 4
    head_dim: int = 96
    activation: str = "silu"
    norm_epsilon: float = 1e-5


class GatedMLP(nn.Module):
    """down(act(gate(x)) * up(x)), without biases."""

    inner: int
    outer: int
    activation: str
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "... I"]) -> Float[Array, "... O"]:
        dense = lambda size, name: nn.Dense(size, use_bias=False, dtype=self.dtype, name=name)  # noqa: E731
        gate = ACTIVATIONS[self.activation](dense(self.inner, "gate_proj")(x))
        return dense(self.outer, "down_proj")(gate * dense(self.inner, "up_proj")(x))


class ResamplerAttention(nn.Module):
    """Latents look at the patches and at themselves: grouped-query attention over both, side by
    side."""

    config: PerceiverConfig
    dtype: Any
    attention_fn: Callable

    @nn.compact
    def __call__(self, latents_NxSxD, patches_NxPxD, mask):
        c, (n, s, d) = self.config, latents_NxSxD.shape
        dense = lambda size, name: nn.Dense(size, use_bias=False, dtype=self.dtype, name=name)  # noqa: E731
        seen = jnp.concatenate([patches_NxPxD, latents_NxSxD], axis=1)
        q = dense(c.heads * c.head_dim, "q_proj")(latents_NxSxD).reshape(n, s, c.heads, c.head_dim)
        k, v = (
            dense(c.kv_heads * c.head_dim, name)(seen).reshape(
                n, seen.shape[1], c.kv_heads, c.head_dim
            )
            for name in ("k_proj", "v_proj")
        )
        return dense(d, "o_proj")(self.attention_fn(q, k, v, mask=mask).reshape(n, s, -1))


class ResamplerLayer(nn.Module):
    """(latents, ...) -> (latents, None). Patches get a norm of their own; they are the same in
    every layer."""

    config: PerceiverConfig
    dtype: Any
    attention_fn: Callable

    @nn.compact
    def __call__(self, latents_NxSxD, patches_NxPxD, mask):
        c, d = self.config, latents_NxSxD.shape[-1]
        norm = lambda name: RMSNorm(c.norm_epsilon, self.dtype, name=name)  # noqa: E731
        attention = ResamplerAttention(c, self.dtype, self.attention_fn, name="attention")
        latents_NxSxD += attention(
            norm("latents_norm")(latents_NxSxD), norm("patches_norm")(patches_NxPxD), mask
        )
        mlp = GatedMLP(EXPANSION * d, d, c.activation, self.dtype, name="mlp")
        return latents_NxSxD + mlp(norm("post_norm")(latents_NxSxD)), None


class Connector(nn.Module):
    """Patches of the vision tower to S tokens per image.

    Attributes:
      width: D; ff_width, activation: the inner width and function of the projection, all three the
        language model's.
    """

    config: PerceiverConfig
    width: int
    ff_width: int
    activation: str
    dtype: Any
    attention_fn: Callable
    unroll: bool
    constrain: Callable

    @nn.compact
    def __call__(
        self, patches_NxPxV: Float[Array, "N P V"], mask_NxP: Bool[Array, "N P"]
    ) -> Float[Array, "N S D"]:
        c, n = self.config, patches_NxPxV.shape[0]
        project = GatedMLP(
            self.ff_width, self.width, self.activation, self.dtype, name="projection"
        )
        start_SxD = self.param("latents", nn.initializers.ones, (c.latents, self.width))
        latents_NxSxD = jnp.broadcast_to(start_SxD.astype(self.dtype), (n, c.latents, self.width))
        latents_NxSxD = self.constrain(latents_NxSxD, ("batch", None, None))
        mask = jnp.concatenate([mask_NxP, jnp.ones((n, c.latents), bool)], axis=1)[:, None, None]
        layers = nn.scan(
            ResamplerLayer,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=c.depth,
            unroll=c.depth if self.unroll else 1,
        )
        latents_NxSxD, _ = layers(c, self.dtype, self.attention_fn, name="layers")(
            latents_NxSxD, project(patches_NxPxV), mask
        )
        return RMSNorm(c.norm_epsilon, self.dtype, name="norm")(latents_NxSxD)
