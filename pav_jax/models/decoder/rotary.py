"""Rotary positions (Su et al. 2021, arXiv 2104.09864) and the ways to stretch them.

Names and formulas of `rope_type` are those of transformers' `modeling_rope_utils`.
"""

import dataclasses
import math

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pav_jax.typed_fields import NonNegative, Positive


@dataclasses.dataclass(frozen=True)
class LinearScaling:
    """`rope_type="linear"`: all frequencies are divided (Chen et al. 2023, arXiv 2306.15595)."""

    factor: Positive


@dataclasses.dataclass(frozen=True)
class Llama3Scaling:
    """`rope_type="llama3"`: low frequencies are divided, high ones kept (arXiv 2407.21783)."""

    factor: Positive
    low_freq_factor: Positive
    high_freq_factor: Positive
    original_max_position_embeddings: int


@dataclasses.dataclass(frozen=True)
class YarnScaling:
    """`rope_type="yarn"` (Peng et al. 2023, arXiv 2309.00071).

    Attributes:
      factor: low frequencies are divided by it.
      original_max_position_embeddings: context of the model before stretching.
      attention_factor: of cosine and sine; None: from `factor`, or `mscale` and `mscale_all_dim`.
      beta_fast, beta_slow: turns within the original context above which a frequency is kept, and
        below which it is divided.
      truncate: round the borders between the two to whole frequencies.
    """

    factor: Positive
    original_max_position_embeddings: int
    attention_factor: Positive | None = None
    beta_fast: Positive = 32.0
    beta_slow: Positive = 1.0
    mscale: NonNegative | None = None
    mscale_all_dim: NonNegative | None = None
    truncate: bool = True


Scaling = LinearScaling | Llama3Scaling | YarnScaling
SCALINGS: dict[str, type[Scaling]] = {
    "linear": LinearScaling,
    "llama3": Llama3Scaling,
    "yarn": YarnScaling,
}


@dataclasses.dataclass(frozen=True)
class Rope:
    """Rotary positions of a layer.

    Attributes:
      theta: base of the wavelengths.
      scaling: how the model's context was stretched, if it was.
    """

    theta: Positive = 10000.0
    scaling: Scaling | None = None


def rotary_frequencies(rope: Rope, rotary_dim: int) -> Float[Array, "R2"]:
    """Return the radians per position of each rotated pair of features."""
    half = rotary_dim // 2
    freq_R2 = 1.0 / rope.theta ** (jnp.arange(half, dtype=jnp.float32) / half)
    scaling = rope.scaling
    if scaling is None:
        return freq_R2
    if isinstance(scaling, LinearScaling):
        return freq_R2 / scaling.factor
    if isinstance(scaling, YarnScaling):
        kept_R2 = 1 - _yarn_ramp(rope.theta, scaling, rotary_dim)
        return freq_R2 / scaling.factor * (1 - kept_R2) + freq_R2 * kept_R2
    # full turns of each pair within the original context length
    turns_R2 = scaling.original_max_position_embeddings * freq_R2 / (2 * jnp.pi)
    low = scaling.low_freq_factor
    blend_R2 = jnp.clip((turns_R2 - low) / (scaling.high_freq_factor - low), 0.0, 1.0)
    return (1 - blend_R2) * freq_R2 / scaling.factor + blend_R2 * freq_R2


def _yarn_ramp(theta: float, scaling: YarnScaling, rotary_dim: int) -> Float[Array, "R2"]:
    """0 for frequencies that are kept, 1 for those that are divided, and between them a line."""

    def border(turns: float) -> float:
        length = scaling.original_max_position_embeddings / (turns * 2 * math.pi)
        return rotary_dim * math.log(length) / (2 * math.log(theta))

    low, high = border(scaling.beta_fast), border(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rotary_dim - 1)
    high += 0.001 if low == high else 0.0
    index_R2 = jnp.arange(rotary_dim // 2, dtype=jnp.float32)
    return jnp.clip((index_R2 - low) / (high - low), 0.0, 1.0)


def attention_factor(rope: Rope) -> float:
    """Return the factor of cosine and sine (YaRN, section 3.4); 1 for the other types."""
    scaling = rope.scaling
    if not isinstance(scaling, YarnScaling):
        return 1.0
    if scaling.attention_factor is not None:
        return scaling.attention_factor

    def magnitude(mscale: float) -> float:
        return 0.1 * mscale * math.log(scaling.factor) + 1.0 if scaling.factor > 1 else 1.0

    if scaling.mscale and scaling.mscale_all_dim:
        return magnitude(scaling.mscale) / magnitude(scaling.mscale_all_dim)
    return magnitude(1.0)


def rotary_table(
    rope: Rope | None, rotary_dim: int, positions_BxT: Int[Array, "B T"]
) -> tuple[Array, Array]:
    """Return cos and sin of the rotation angles, each float32 [B, T, 1, rotary_dim/2].

    Args:
      rope: None gives the table that leaves everything as it is.
      rotary_dim: features of a head that are rotated.
    """
    if rope is None:
        shape = (*positions_BxT.shape, 1, rotary_dim // 2)
        return jnp.ones(shape, jnp.float32), jnp.zeros(shape, jnp.float32)
    frequencies = rotary_frequencies(rope, rotary_dim)
    angle = positions_BxT.astype(jnp.float32)[:, :, None, None] * frequencies
    factor = attention_factor(rope)
    return factor * jnp.cos(angle), factor * jnp.sin(angle)
