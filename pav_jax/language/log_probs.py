"""Per-token log-probabilities in float32, with at most one chunk of logits in memory.

B examples, T tokens, N chunks, C tokens per chunk, D model width, V vocabulary.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pav_jax.models.decoder.model import unembed as llama_unembed

Unembed = Callable[[Any, Float[Array, "B C D"]], Float[Array, "B C V"]]


def log_probs(
    model: Any,
    variables: Mapping[str, Any],
    ids_BxT: Int[Array, "B T"],
    chunk_size: int,
    dropout_key: jax.Array | None = None,
    temperature: float = 1.0,
    segments_BxT: Int[Array, "B T"] | None = None,
    mask_BxT: Bool[Array, "B T"] | None = None,
    head_is_frozen: bool = False,
) -> Float[Array, "B T"]:
    """Compute log p(ids[t] | ids[:t]) with a language model.

    Rows are padded on the right, which a causal model does not see.

    Args:
      variables: the model's collections, "params" and perhaps "lora".
      dropout_key: None turns dropout off.
      temperature: logits are divided by it.
      segments_BxT: the number of the example that a token belongs to, where examples are packed
        into rows; a token attends only to its own example.
      mask_BxT, head_is_frozen: see `token_log_probs`.
    """

    def logits(head, x_BxCxD):
        raw_BxCxV = llama_unembed(head, x_BxCxD)
        return raw_BxCxV if temperature == 1.0 else raw_BxCxV.astype(jnp.float32) / temperature

    x_BxTxD = model.apply(
        variables,
        ids_BxT,
        segment_ids_BxT=segments_BxT,
        return_hidden=True,
        deterministic=dropout_key is None,
        rngs=None if dropout_key is None else {"dropout": dropout_key},
    )
    params = variables["params"]
    name = "lm_head" if "lm_head" in params else "embed"  # embed: tied embeddings
    head = {name: params[name]}
    return token_log_probs(logits, head, x_BxTxD, ids_BxT, chunk_size, mask_BxT, head_is_frozen)


def token_log_probs(
    unembed: Unembed,
    head: Any,
    x_BxTxD: Float[Array, "B T D"],
    ids_BxT: Int[Array, "B T"],
    chunk_size: int = 128,
    mask_BxT: Bool[Array, "B T"] | None = None,
    head_is_frozen: bool = False,
) -> Float[Array, "B T"]:
    """Compute log p(ids[t] | ids[:t]) for every t from hidden states; 0 at t = 0.

    Only `chunk_size` positions of logits exist at a time, in the forward and the backward pass.

    Args:
      unembed: (head, hidden states of some positions) -> their logits.
      head: the parameters of `unembed`.
      x_BxTxD: final hidden states.
      chunk_size: positions per chunk; need not divide T.
      mask_BxT: tokens whose value is used. Chunks without one are not computed and give zeros.
      head_is_frozen: `head` is not trained, which saves a third of the products with the
        vocabulary.
    """
    B, T, _ = x_BxTxD.shape
    chunk_fn = _with_precomputed_gradient if head_is_frozen else _with_recomputed_logits
    chunk_log_probs = functools.partial(chunk_fn, unembed, head)
    # the state at t - 1 predicts the token at t
    target_BxT = jnp.roll(ids_BxT, -1, axis=1)
    if chunk_size >= T:
        return _shift_to_tokens(chunk_log_probs(x_BxTxD, target_BxT))
    num_chunks = -(-T // chunk_size)
    pad = num_chunks * chunk_size - T

    def split(array_BxT):
        padded = jnp.pad(array_BxT, ((0, 0), (0, pad)) + ((0, 0),) * (array_BxT.ndim - 2))
        return padded.reshape(B, num_chunks, chunk_size, *array_BxT.shape[2:]).swapaxes(0, 1)

    def zeros(x_BxCxD, _):
        return jnp.zeros(x_BxCxD.shape[:2], jnp.float32)

    chunks = (split(x_BxTxD), split(target_BxT))
    if mask_BxT is None:
        logp_NxBxC = jax.lax.map(lambda chunk: chunk_log_probs(*chunk), chunks)
    else:
        predicts_masked_BxT = jnp.roll(mask_BxT, -1, axis=1).at[:, -1].set(False)
        needed_N = jnp.any(split(predicts_masked_BxT), axis=(1, 2))
        logp_NxBxC = jax.lax.map(
            lambda item: jax.lax.cond(item[0], chunk_log_probs, zeros, *item[1]),
            (needed_N, chunks),
        )
    return _shift_to_tokens(logp_NxBxC.swapaxes(0, 1).reshape(B, num_chunks * chunk_size)[:, :T])


def _shift_to_tokens(logp_BxT: Float[Array, "B T"]) -> Float[Array, "B T"]:
    """Move values from the position of the predicting state to that of the predicted token."""
    return jnp.roll(logp_BxT, 1, axis=1).at[:, 0].set(0.0)


def _with_recomputed_logits(
    unembed: Unembed, head: Any, x_BxCxD: Float[Array, "B C D"], target_BxC: Int[Array, "B C"]
) -> Float[Array, "B C"]:
    """Log-probabilities of a chunk; the backward pass recomputes its logits."""
    return jax.checkpoint(lambda head, x, target: _target_log_probs(unembed(head, x), target)[0])(
        head, x_BxCxD, target_BxC
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _with_precomputed_gradient(
    unembed: Unembed, head: Any, x_BxCxD: Float[Array, "B C D"], target_BxC: Int[Array, "B C"]
) -> Float[Array, "B C"]:
    """Log-probabilities of a chunk; the forward pass also computes their gradient.

    While it has the logits, the forward pass computes d log p / dx = (onehot - p) W for each row of
    `x`; the backward pass only scales it, as Liger's fused linear cross-entropy does (Hsu et al.
    2024). There are then two products with the vocabulary instead of three. The head gets no
    gradient.
    """
    return _target_log_probs(unembed(head, x_BxCxD), target_BxC)[0]


def _precomputed_forward(unembed, head, x_BxCxD, target_BxC):
    logits_BxCxV, pull = jax.vjp(functools.partial(unembed, head), x_BxCxD)
    logp_BxC, total_BxC = _target_log_probs(logits_BxCxV, target_BxC)
    p_BxCxV = jnp.exp(logits_BxCxV.astype(jnp.float32) - total_BxC[..., None])
    is_target_BxCxV = jnp.arange(p_BxCxV.shape[-1]) == target_BxC[..., None]
    (slope_BxCxD,) = pull((is_target_BxCxV - p_BxCxV).astype(logits_BxCxV.dtype))
    return logp_BxC, slope_BxCxD


def _precomputed_backward(unembed, slope_BxCxD, g_BxC):
    del unembed
    grad_BxCxD = (g_BxC[..., None] * slope_BxCxD.astype(jnp.float32)).astype(slope_BxCxD.dtype)
    return None, grad_BxCxD, None


_with_precomputed_gradient.defvjp(_precomputed_forward, _precomputed_backward)


def _target_log_probs(
    logits_BxCxV: Float[Array, "B C V"], target_BxC: Int[Array, "B C"]
) -> tuple[Float[Array, "B C"], Float[Array, "B C"]]:
    """Return (logit[target] - logsumexp(logits), logsumexp), without a one-hot matrix."""
    logits_BxCxV = logits_BxCxV.astype(jnp.float32)
    target_logit_BxC = jnp.take_along_axis(logits_BxCxV, target_BxC[..., None], axis=-1)[..., 0]
    total_BxC = jax.nn.logsumexp(logits_BxCxV, axis=-1)
    return target_logit_BxC - total_BxC, total_BxC
