"""How tokens are drawn: the settings, and one draw from logits.

Letters: B rows, V vocabulary, C candidate tokens.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pav_jax.errors import BadInput

# Only this many of the most likely tokens are sorted if top_k asks for no more. A larger top_k, or
# none, compiles a larger program.
CANDIDATES = 64
MIN_PROMPT_BUCKET = 64


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How tokens are drawn, with the meaning of transformers' GenerationConfig.

    Attributes:
      max_new_tokens: the longest answer, in tokens.
      temperature: 0 is greedy decoding.
      top_k: 0 is off.
      top_p: 1 is off.
      repetition_penalty: 1 is off.
    """

    max_new_tokens: int = 250
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    repetition_penalty: float = 1.0

    def __post_init__(self):
        limits = (
            ("max_new_tokens", self.max_new_tokens >= 1, "1 or more"),
            ("temperature", self.temperature >= 0, "0 (greedy) or more"),
            ("top_k", self.top_k >= 0, "0 (off) or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0, at most 1 (off)"),
            ("repetition_penalty", self.repetition_penalty > 0, "above 0, where 1 is off"),
        )
        for name, valid, limit in limits:
            if not valid:
                raise BadInput(f"{name}={getattr(self, name)}: must be {limit}", field=name)


def prompt_bucket(length: int, smallest: int = MIN_PROMPT_BUCKET) -> int:
    """Return the padded length for a prompt: 64, 128, 256, ..."""
    bucket = smallest
    while bucket < length:
        bucket *= 2
    return bucket


def pick(
    logits_BxV: Float[Array, "B V"],
    seen_BxV: Bool[Array, "B V"],
    keys_B: Array,
    candidates: int,
    *,
    temperature: Array,
    top_k: Array,
    top_p: Array,
    repetition_penalty: Array,
) -> Int[Array, "B"]:
    """Draw one token per row: repetition penalty, temperature, top-k, top-p, in the order of
    transformers.

    Only the `candidates` most likely tokens are considered. Temperature 0 takes the most likely
    one. top-p keeps the most likely tokens until their sum reaches `top_p`, including the one that
    crosses it (Holtzman et al. 2020, arXiv 1904.09751).
    """
    penalized = jnp.where(
        logits_BxV < 0, logits_BxV * repetition_penalty, logits_BxV / repetition_penalty
    )
    best_BxC, ids_BxC = jax.lax.top_k(jnp.where(seen_BxV, penalized, logits_BxV), candidates)
    scaled_BxC = best_BxC / jnp.maximum(temperature, 1e-6)
    in_top_k_BxC = jnp.where(jnp.arange(candidates) < top_k, scaled_BxC, -jnp.inf)
    probs_BxC = jax.nn.softmax(in_top_k_BxC, axis=-1)
    before_BxC = jnp.cumsum(probs_BxC, axis=-1) - probs_BxC
    in_top_p_BxC = jnp.where(before_BxC < top_p, in_top_k_BxC, -jnp.inf)
    noise_BxC = jax.vmap(lambda key: jax.random.gumbel(key, (candidates,)))(keys_B)
    # the Gumbel trick: the argmax is a draw from the softmax
    drawn_B = jnp.argmax(in_top_p_BxC + noise_BxC, axis=-1)
    choice_B = jnp.where(temperature > 0, drawn_B, 0)
    return jnp.take_along_axis(ids_BxC, choice_B[:, None], axis=-1)[:, 0]
