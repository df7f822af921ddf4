"""Layers that several models share. Norms compute in float32 and give back the compute dtype.

Letters: D features; B rows, T tokens, N heads, H head size. Parameters are float32 unless loaded
otherwise.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class RMSNorm(nn.Module):
    """x / rms(x) * scale (Zhang & Sennrich 2019), no mean, no bias: Llama's and T5's norm."""

    eps: float = 1e-6
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        scale_D = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        x = x.astype(jnp.float32)
        x = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + self.eps)
        return (x * scale_D.astype(jnp.float32)).astype(self.dtype)


class LayerNorm(nn.Module):
    """(x - mean) / sqrt(var + eps) * scale + bias; `affine=False` leaves out both parameters."""

    eps: float = 1e-5
    affine: bool = True
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        x = x.astype(jnp.float32)
        x = x - jnp.mean(x, axis=-1, keepdims=True)
        x = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + self.eps)
        if self.affine:
            scale_D = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
            bias_D = self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
            x = x * scale_D.astype(jnp.float32) + bias_D.astype(jnp.float32)
        return x.astype(self.dtype)


def rotate(
    x_BxTxNxH: Float[Array, "B T N H"], rotary: tuple[Array, Array]
) -> Float[Array, "B T N H"]:
    """Rotary positions (Su et al. 2021): turns the pairs (i, i + H/2) by the angles whose cos and
    sin are given, in float32."""
    cos, sin = rotary
    first, second = jnp.split(x_BxTxNxH.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x_BxTxNxH.dtype)


def gated_sum(
    x: Float[Array, "..."], gate: Float[Array, "..."], update: Float[Array, "..."]
) -> Float[Array, "..."]:
    """The residual stream and what a modulated layer adds to it."""
    return (x + gate * update).astype(
        x.dtype
    )  # the gate is float32 (modulation), the residual stream is not


def quick_gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """x * sigmoid(1.702 x), the activation of OpenAI's CLIP."""
    return x * jax.nn.sigmoid(1.702 * x)


# Hugging Face `hidden_act` names -> function. "gelu" there is the exact one, "gelu_new" and
# "gelu_pytorch_tanh" the tanh form.
ACTIVATIONS = {
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "relu": jax.nn.relu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_new": lambda x: jax.nn.gelu(x, approximate=True),
    "gelu_pytorch_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "quick_gelu": quick_gelu,
}
