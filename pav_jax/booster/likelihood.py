"""How likely a model finds its own rewrites: decides between equally faithful ones.

B texts, T tokens of a row.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from pav_jax.booster.guard import Request
from pav_jax.language import chat
from pav_jax.language.language_model import LanguageModel
from pav_jax.language.log_probs import log_probs
from pav_jax.language.sampling import prompt_bucket

ROWS = 4  # of a compiled program
CHUNK_SIZE = 128  # positions whose logits are in memory at a time


def log_likelihoods(lm: LanguageModel, request: Request, texts: Sequence[str]) -> list[float]:
    """The mean log-probability per token of each text as an answer to a request, in nats.

    Args:
      lm: has the adapter that the request names.
      texts: without the token that ends an answer.
    """
    names = [request.adapter]
    (prompt,) = lm.adapters.encode(lm.tokenizer, [chat.user_chat(request.prompt)], names)
    answers = [lm.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    limit = lm.config.max_position_embeddings - 1
    prompt = prompt[-max(1, limit - max(map(len, answers))) :]
    variables = lm.variables
    if request.adapter is not None or lm.adapters.merged is not None:
        variables = lm.adapters.variables_of_rows({"params": lm.params}, names * ROWS)
    length = prompt_bucket(len(prompt) + max(map(len, answers)))
    values: list[float] = []
    for start in range(0, len(answers), ROWS):
        group = answers[start : start + ROWS]
        ids_BxT = np.zeros((ROWS, length), np.int32)
        is_answer_BxT = np.zeros((ROWS, length), bool)
        for i, answer in enumerate(group):
            end = len(prompt) + len(answer)
            ids_BxT[i, :end] = [*prompt, *answer]
            is_answer_BxT[i, len(prompt) : end] = True
        means_B = _mean_log_probs(lm.model, variables, ids_BxT, is_answer_BxT)
        values += np.asarray(means_B)[: len(group)].tolist()
    return values


@functools.partial(jax.jit, static_argnums=0)
def _mean_log_probs(
    model: Any, variables: Any, ids_BxT: Int[Array, "B T"], is_answer_BxT: Bool[Array, "B T"]
) -> Float[Array, "B"]:
    values_BxT = log_probs(model, variables, ids_BxT, CHUNK_SIZE)
    sums_B = jnp.where(is_answer_BxT, values_BxT, 0.0).sum(1)
    return sums_B / jnp.maximum(is_answer_BxT.sum(1), 1)
