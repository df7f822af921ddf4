"""Layers shared by several models.

Norms compute in float32 and return the compute dtype. Parameters are float32 unless loaded
otherwise.

Letters: D features; B rows, T tokens, N heads, H head size.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# (array, its logical axes) -> the array, sharded accordingly; see parallel.sharding_rules
Constrain = Callable[[Array, tuple[str | None, ...]], Array]


def unconstrained(x: Array, axes: tuple[str | None, ...]) -> Array:
    """Return `x` unchanged: the `constrain` function of a model that runs on one device."""
    del axes
    return x


# the stub of nn.scan knows integers only
BROADCAST: Any = nn.broadcast


def scan_layers(
    block: type[nn.Module], length: int, unroll: int = 1, remat: bool = False
) -> Callable[..., Any]:
    """Return a module class that applies `length` layers with stacked parameters in one loop.

    Args:
      block: of one layer: (x, *broadcast arguments) -> (x, None).
      unroll: layers per step of the loop; `length` unrolls it completely (faster on CPU, slower to
        compile).
      remat: recompute each layer in the backward pass instead of storing its activations.
    """
    return nn.scan(
        nn.remat(block, prevent_cse=False) if remat else block,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=BROADCAST,
        length=length,
        unroll=unroll,
    )


class RMSNorm(nn.Module):
    """x / rms(x) * (offset + scale), the norm of Llama and T5 (Zhang & Sennrich 2019, arXiv
    1910.07467); the offset is 1 in Gemma."""

    eps: float = 1e-6
    dtype: Any = jnp.float32
    offset: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        init = nn.initializers.constant(1.0 - self.offset)
        scale_D = self.param("scale", init, (x.shape[-1],), jnp.float32).astype(jnp.float32)
        if self.offset:
            scale_D = self.offset + scale_D
        x = x.astype(jnp.float32)
        x = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + self.eps)
        return (x * scale_D).astype(self.dtype)


class LayerNorm(nn.Module):
    """(x - mean) / sqrt(var + eps) * scale + bias; `affine=False` omits both parameters."""

    eps: float = 1e-5
    affine: bool = True
    dtype: Any = jnp.float32

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
    """Apply rotary positions in float32 (Su et al. 2021, arXiv 2104.09864).

    Args:
      rotary: cos and sin of the angles by which the channel pairs (i, i + H/2) are rotated.
    """
    cos, sin = rotary
    first, second = jnp.split(x_BxTxNxH.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x_BxTxNxH.dtype)


def gated_sum(
    x: Float[Array, "..."], gate: Float[Array, "..."], update: Float[Array, "..."]
) -> Float[Array, "..."]:
    """Add the gated output of a modulated layer to the residual stream `x`, in the dtype of `x`."""
    return (x + gate * update).astype(x.dtype)  # the gate is float32


def quick_gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Return x * sigmoid(1.702 x), the activation of OpenAI's CLIP."""
    return x * jax.nn.sigmoid(1.702 * x)


# transformers' `hidden_act` -> function; "gelu" is the exact one, "gelu_new" and
# "gelu_pytorch_tanh" are the tanh approximation
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "relu": jax.nn.relu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_new": lambda x: jax.nn.gelu(x, approximate=True),
    "gelu_pytorch_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "quick_gelu": quick_gelu,
}
