"""Idefics2's connector: projects patches to the language model's width and resamples them.

The perceiver resampler turns any number of patches into a fixed number of tokens. Sources: Jaegle
et al. 2021 (arXiv 2103.03206); Laurencon et al. 2024 (arXiv 2405.02246), section 3.2.

Shapes: N images, P patches of V features, S latents, D the language model's width.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pav_jax.models.layers import ACTIVATIONS, Constrain, RMSNorm, scan_layers
from pav_jax.typed_fields import Depth, NonNegative

EXPANSION = 4  # the resampler's feed-forward has width 4 D, fixed in the original


@dataclasses.dataclass(frozen=True)
class PerceiverConfig:
    """Sizes of the resampler, whose width is the language model's; defaults: Idefics2-8B."""

    latents: int = 64
    depth: Depth = 3
    heads: int = 16
    kv_heads: int = 4
    head_dim: int = 96
    activation: str = "silu"
    norm_epsilon: NonNegative = 1e-5


def _dense(features: int, dtype: Any, name: str) -> nn.Dense:
    return nn.Dense(features, use_bias=False, dtype=dtype, name=name)


class GatedMLP(nn.Module):
    """down(act(gate(x)) * up(x)), without biases."""

    inner: int
    outer: int
    activation: str
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "... I"]) -> Float[Array, "... O"]:
        gate = _dense(self.inner, self.dtype, "gate_proj")(x)
        up = _dense(self.inner, self.dtype, "up_proj")(x)
        gated = ACTIVATIONS[self.activation](gate) * up
        return _dense(self.outer, self.dtype, "down_proj")(gated)


class ResamplerAttention(nn.Module):
    """Grouped-query attention from the latents to the patches and to themselves."""

    config: PerceiverConfig
    dtype: Any
    attention_fn: Callable

    @nn.compact
    def __call__(self, latents_NxSxD, patches_NxPxD, mask):
        c = self.config
        n, s, d = latents_NxSxD.shape
        context = jnp.concatenate([patches_NxPxD, latents_NxSxD], axis=1)

        def project(x: Array, heads: int, name: str) -> Array:
            y = _dense(heads * c.head_dim, self.dtype, name)(x)
            return y.reshape(n, x.shape[1], heads, c.head_dim)

        q = project(latents_NxSxD, c.heads, "q_proj")
        k = project(context, c.kv_heads, "k_proj")
        v = project(context, c.kv_heads, "v_proj")
        out = self.attention_fn(q, k, v, mask=mask).reshape(n, s, -1)
        return _dense(d, self.dtype, "o_proj")(out)


class ResamplerLayer(nn.Module):
    """One layer: (latents, ...) -> (latents, None). Every layer reads the same patches."""

    config: PerceiverConfig
    dtype: Any
    attention_fn: Callable

    @nn.compact
    def __call__(self, latents_NxSxD, patches_NxPxD, mask):
        c = self.config
        d = latents_NxSxD.shape[-1]

        def norm(x: Array, name: str) -> Array:
            return RMSNorm(c.norm_epsilon, self.dtype, name=name)(x)

        attention = ResamplerAttention(c, self.dtype, self.attention_fn, name="attention")
        latents_NxSxD += attention(
            norm(latents_NxSxD, "latents_norm"), norm(patches_NxPxD, "patches_norm"), mask
        )
        mlp = GatedMLP(EXPANSION * d, d, c.activation, self.dtype, name="mlp")
        return latents_NxSxD + mlp(norm(latents_NxSxD, "post_norm")), None


class Connector(nn.Module):
    """Patches of the vision tower to S tokens per image.

    Attributes:
      width, ff_width, activation: of the projection, the same as the language model's.
    """

    config: PerceiverConfig
    width: int
    ff_width: int
    activation: str
    dtype: Any
    attention_fn: Callable
    unroll: bool
    constrain: Constrain

    @nn.compact
    def __call__(
        self, patches_NxPxV: Float[Array, "N P V"], mask_NxP: Bool[Array, "N P"]
    ) -> Float[Array, "N S D"]:
        c = self.config
        n = patches_NxPxV.shape[0]
        project = GatedMLP(
            self.ff_width, self.width, self.activation, self.dtype, name="projection"
        )
        start_SxD = self.param("latents", nn.initializers.ones, (c.latents, self.width))
        latents_NxSxD = jnp.broadcast_to(start_SxD.astype(self.dtype), (n, c.latents, self.width))
        latents_NxSxD = self.constrain(latents_NxSxD, ("batch", None, None))
        mask = jnp.concatenate([mask_NxP, jnp.ones((n, c.latents), bool)], axis=1)[:, None, None]
        layers = scan_layers(ResamplerLayer, c.depth, c.depth if self.unroll else 1)
        latents_NxSxD, _ = layers(c, self.dtype, self.attention_fn, name="layers")(
            latents_NxSxD, project(patches_NxPxV), mask
        )
        return RMSNorm(c.norm_epsilon, self.dtype, name="norm")(latents_NxSxD)
