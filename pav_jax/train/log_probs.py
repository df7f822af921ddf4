"""Per-token log-probabilities of given tokens, float32, with never more than a chunk of logits in
memory.

B examples, T tokens, C tokens of a chunk, D model width, V vocabulary.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

Unembed = Callable[[Any, Float[Array, "B C D"]], Float[Array, "B C V"]]


def token_log_probs(
    unembed: Unembed,
    head: Any,
    x_BxTxD: Float[Array, "B T D"],
    ids_BxT: Int[Array, "B T"],
    chunk: int = 128,
    wanted_BxT: Bool[Array, "B T"] | None = None,
    fixed_head: bool = False,
) -> Float[Array, "B T"]:
    """log p(ids[t] | ids[:t]) for every t; zero at t = 0, which nothing predicts.

    Only `chunk` positions of logits exist at a time, in the forward pass and in the backward pass.

    Args:
      unembed: (head, hidden states of some positions) -> their logits.
      head: the parameters of `unembed`.
      x_BxTxD: final hidden states.
      chunk: positions per chunk; need not divide T.
      wanted_BxT: tokens whose value is used. Chunks without one are not computed and give zeros.
      fixed_head: `head` is not trained, which saves a third of the products with the vocabulary.
    """
    B, T, D = x_BxTxD.shape
    one = functools.partial(_gradient_ahead if fixed_head else _recomputed, unembed, head)
    # the state at t - 1 predicts the token at t
    target_BxT = jnp.roll(ids_BxT, -1, axis=1)
    if chunk >= T:
        return _to_their_tokens(one(x_BxTxD, target_BxT))
    n = -(-T // chunk)
    pad = n * chunk - T

    def chunks(array_BxT):
        filled = jnp.pad(array_BxT, ((0, 0), (0, pad)) + ((0, 0),) * (array_BxT.ndim - 2))
        return filled.reshape(B, n, chunk, *array_BxT.shape[2:]).swapaxes(0, 1)

    parts = chunks(x_BxTxD), chunks(target_BxT)
    if wanted_BxT is None:
        logp_NxBxC = jax.lax.map(lambda part: one(*part), parts)
    else:
        skipped = lambda x_BxCxD, _: jnp.zeros(x_BxCxD.shape[:2], jnp.float32)  # noqa: E731
        needed_N = jnp.any(
            chunks(jnp.roll(wanted_BxT, -1, axis=1).at[:, -1].set(False)), axis=(1, 2)
        )
        logp_NxBxC = jax.lax.map(
            lambda part: jax.lax.cond(part[0], one, skipped, *part[1]), (needed_N, parts)
        )
    return _to_their_tokens(logp_NxBxC.swapaxes(0, 1).reshape(B, n * chunk)[:, :T])


def _to_their_tokens(logp_BxT: Float[Array, "B T"]) -> Float[Array, "B T"]:
    """From the place of the predicting state to that of the predicted token."""
    return jnp.roll(logp_BxT, 1, axis=1).at[:, 0].set(0.0)


def _recomputed(
    unembed: Unembed, head: Any, x_BxCxD: Float[Array, "B C D"], target_BxC: Int[Array, "B C"]
) -> Float[Array, "B C"]:
    """The backward pass makes the logits again, for the gradient of the head as well."""
    return jax.checkpoint(lambda head, x, target: _log_probs(unembed(head, x), target)[0])(
        head, x_BxCxD, target_BxC
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gradient_ahead(
    unembed: Unembed, head: Any, x_BxCxD: Float[Array, "B C D"], target_BxC: Int[Array, "B C"]
) -> Float[Array, "B C"]:
    """The forward pass, while it has the logits, also makes d log p / dx = (onehot - p) W, as a row
    of `x` its own gradient; the backward pass only scales it (as Liger's fused linear cross-entropy
    does, Hsu et al. 2024). The products with the vocabulary are then two, not three. The head gets
    no gradient."""
    return _log_probs(unembed(head, x_BxCxD), target_BxC)[0]


def _forward(unembed, head, x_BxCxD, target_BxC):
    logits_BxCxV, pull = jax.vjp(functools.partial(unembed, head), x_BxCxD)
    logp_BxC, total_BxC = _log_probs(logits_BxCxV, target_BxC)
    p_BxCxV = jnp.exp(logits_BxCxV.astype(jnp.float32) - total_BxC[..., None])
    is_target_BxCxV = jnp.arange(p_BxCxV.shape[-1]) == target_BxC[..., None]
    (slope_BxCxD,) = pull((is_target_BxCxV - p_BxCxV).astype(logits_BxCxV.dtype))
    return logp_BxC, slope_BxCxD


def _backward(unembed, slope_BxCxD, g_BxC):
    return (
        None,
        (g_BxC[..., None] * slope_BxCxD.astype(jnp.float32)).astype(slope_BxCxD.dtype),
        None,
    )


_gradient_ahead.defvjp(_forward, _backward)


def _log_probs(
    logits_BxCxV: Float[Array, "B C V"], target_BxC: Int[Array, "B C"]
) -> tuple[Float[Array, "B C"], Float[Array, "B C"]]:
    """logit[target] - logsumexp(logits), without a one-hot; and the logsumexp."""
    logits_BxCxV = logits_BxCxV.astype(jnp.float32)
    chosen_BxC = jnp.take_along_axis(logits_BxCxV, target_BxC[..., None], axis=-1)[..., 0]
    total_BxC = jax.nn.logsumexp(logits_BxCxV, axis=-1)
    return chosen_BxC - total_BxC, total_BxC
