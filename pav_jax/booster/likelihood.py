"""How likely a model finds its own rewrites: decides between equally faithful ones.

B texts, P padded length of prompt and text.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pav_jax.booster.guard import Likelihood, Request
from pav_jax.language import chat, prefill
from pav_jax.language.language_model import LanguageModel
from pav_jax.language.log_probs import token_log_probs
from pav_jax.language.sampling import Sampling
from pav_jax.language.scheduler import shared_prefix
from pav_jax.models.decoder.model import unembed

ROWS = 4  # of a compiled program
LENGTH_MULTIPLE = 64  # each length compiles a program
CHUNK_SIZE = 128  # positions whose logits are in memory at a time


def log_likelihoods(lm: LanguageModel, request: Request, texts: Sequence[str]) -> list[float]:
    """The mean log-probability per token of each text as an answer to a request, in nats.

    Args:
      lm: has the adapter that the request names.
      texts: without the token that ends an answer.
    """
    name = request.adapter
    (prompt,) = lm.adapters.encode(lm.tokenizer, [chat.user_chat(request.prompt)], [name])
    answers = [lm.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    limit = lm.config.max_position_embeddings - 1
    prompt = prompt[-max(1, limit - max(map(len, answers))) :]
    is_named = name is not None or lm.adapters.merged is not None
    sampler = lm.make_sampler(
        Sampling(1), shared_prefix(lm.tokenizer, [prompt]), lm.adapters if is_named else None
    )
    variables = sampler.adapters.variables_of_rows(sampler.variables, [name] * ROWS)
    bucket = sampler.bucket([*prompt, *max(answers, key=len)], name)
    prefix = None
    if r := bucket.prefix:
        prefix = prefill.Prefix(np.asarray(prompt[:r], np.int32), sampler.prefix_cache(name))
    p = -(-(len(prompt) - r + max(map(len, answers))) // LENGTH_MULTIPLE) * LENGTH_MULTIPLE
    shape = prefill.make_shape(lm.model, ROWS, r, p, Sampling(1), (), lm.mesh)
    values: list[float] = []
    for start in range(0, len(answers), ROWS):
        ids_BxP = np.zeros((ROWS, p), np.int32)
        lengths_B = np.zeros(ROWS, np.int32)
        counts_B = np.zeros(ROWS, np.int32)
        group = answers[start : start + ROWS]
        for i, answer in enumerate(group):
            tokens = [*prompt[r:], *answer]
            ids_BxP[i, p - len(tokens) :] = tokens
            lengths_B[i], counts_B[i] = len(tokens), len(answer)
        means_B = _mean_log_probs(shape, variables, prefix, ids_BxP, lengths_B, counts_B)
        values += np.asarray(means_B)[: len(group)].tolist()
    return values


def with_drawn(compute: Likelihood, drawn: Mapping[tuple[Request, str], float]) -> Likelihood:
    """Return a likelihood that looks texts up among those drawn, and computes the others.

    Args:
      compute: the likelihood of texts that were not drawn, or whose value is NaN.
      drawn: request and text -> the mean log-probability known from drawing the text.
    """

    def likelihood(request: Request, texts: Sequence[str]) -> list[float]:
        values = {text: drawn.get((request, text), math.nan) for text in texts}
        missing = [text for text, value in values.items() if math.isnan(value)]
        if missing:
            values |= zip(missing, compute(request, missing), strict=True)
        return [values[text] for text in texts]

    return likelihood


@functools.partial(jax.jit, static_argnums=0)
def _mean_log_probs(
    shape: prefill.Shape,
    variables: Any,
    prefix: prefill.Prefix | None,
    ids_BxP: Int[Array, "B P"],
    lengths_B: Int[Array, "B"],
    counts_B: Int[Array, "B"],
) -> Float[Array, "B"]:
    """The mean over the last `counts_B` tokens of prompts that are padded on the left."""
    x_BxPxD, _ = prefill.hidden_states(shape, variables, prefix, ids_BxP, lengths_B)
    head = {name: a for name, a in variables["params"].items() if name in ("embed", "lm_head")}
    values_BxP = token_log_probs(unembed, head, x_BxPxD, ids_BxP, CHUNK_SIZE)
    p = ids_BxP.shape[1]
    is_answer_BxP = jnp.arange(p) >= p - counts_B[:, None]
    sums_B = jnp.where(is_answer_BxP, values_BxP, 0.0).sum(1)
    return sums_B / jnp.maximum(counts_B, 1)
