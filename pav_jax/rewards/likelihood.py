"""LIKELIHOOD: how likely a rewrite is under a language model of the wanted style.

LIKELIHOOD = min(1/n * sum over t of log p(y_t | prompt in the chat template, y_1 ... y_(t-1)),
maximum), where y_1 ... y_n are the tokens of the rewrite and of its end, as in training. Its unit
is nats per token; it is at most 0. Minus the loss of SFT is its mean over rewrites, weighted by
their tokens. Without `maximum`, texts that repeat themselves score best.

B rewrites, T tokens of a row.
"""

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from pav_jax.errors import BadInput
from pav_jax.language.encoder import EncodedExample, make_encoder
from pav_jax.language.language_model import LanguageModel
from pav_jax.language.log_probs import log_probs
from pav_jax.rewards.options import LikelihoodOptions
from pav_jax.rewards.reward import PretrainedReward, Scores, Videos

MIN_ROW_LENGTH = 64  # tokens; rows are padded to this times a power of two
CHUNK_SIZE = 128  # positions whose logits are in memory at a time


class Likelihood(PretrainedReward):
    """The reward LIKELIHOOD. Without rewrites there is no score; an empty rewrite has NaN.

    Args:
      lm: the language model, whose chat template is used.
      batch_size: rows in one compiled program. There is one for each padded length, 64, 128, 256,
        ... tokens; a score does not depend on the other rows.
      max_length, max_prompt_length: tokens, cut as in training.
      maximum: higher values are reduced to this; None: 0.

    Raises:
      BadInput: the model has no chat template or no end-of-sequence token.
    """

    names = ("LIKELIHOOD",)
    options = LikelihoodOptions
    reads_video = False

    def __init__(
        self,
        lm: LanguageModel,
        batch_size: int = 8,
        max_length: int = 1024,
        max_prompt_length: int = 512,
        maximum: float | None = None,
    ):
        self.lm = lm
        self.batch_size = batch_size
        self.maximum = 0.0 if maximum is None else maximum
        max_length = min(max_length, lm.config.max_position_embeddings)
        self.encoder = make_encoder(lm, max_length, max_prompt_length)
        self.encoder.encode_prompt("a dog runs")  # a missing template is reported now

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        adapter: str | Path | None = None,
        template: str | None = None,
        dtype: str = "float32",
        batch_size: int = 8,
        max_length: int = 1024,
        max_prompt_length: int = 512,
        maximum: float | None = None,
    ) -> "Likelihood":
        """Load a language model, usually a booster that SFT trained on rewrites of the style.

        Args:
          path, adapter, dtype: see `LanguageModel.from_pretrained`. Log-probabilities are computed
            from the logits in float32.
          template: see `LanguageModel.with_template`; None: the checkpoint's own.
          batch_size, max_length, max_prompt_length, maximum: see the class.

        Raises:
          BadInput: the checkpoint or the template cannot be used.
        """
        lm = LanguageModel.from_pretrained(path, dtype=dtype, adapter=adapter)
        if template:
            lm = lm.with_template(template)
        return cls(lm, batch_size, max_length, max_prompt_length, maximum)

    def score(
        self, videos: Videos | None, prompts: Sequence[str], refined: Sequence[str] | None = None
    ) -> Scores:
        """Score the rewrites of B prompts; returns LIKELIHOOD [B], nothing without rewrites."""
        del videos
        if refined is None:
            return {}
        pairs = list(zip(prompts, refined, strict=True))
        # padding repeats pairs
        scores = self._score_pairs([pair for pair in dict.fromkeys(pairs) if pair[1].strip()])
        values = [scores.get(pair, np.nan) for pair in pairs]
        return {"LIKELIHOOD": np.minimum(np.array(values, np.float32), self.maximum)}

    def _score_pairs(self, pairs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], float]:
        """(prompt, rewrite) -> mean log-probability."""
        encoded = [self._encode(*pair) for pair in pairs]
        scores: dict[tuple[str, str], float] = {}
        for length, rows in self._batches(encoded):
            ids_BxT = np.full((self.batch_size, length), self.encoder.padding, np.int32)
            answer_BxT = np.zeros(ids_BxT.shape, bool)
            for i, row in enumerate(rows):
                (tokens,) = encoded[row].rows
                ids_BxT[i, : len(tokens)] = tokens
                answer_BxT[i, encoded[row].num_prompt_tokens : len(tokens)] = True
            means_B = _mean_log_probs(self.lm.model, self.lm.variables, ids_BxT, answer_BxT)
            for row, mean in zip(rows, np.asarray(means_B), strict=False):
                scores[pairs[row]] = float(mean)
        return scores

    def _encode(self, prompt: str, rewrite: str) -> EncodedExample:
        encoded = self.encoder.encode(prompt, [rewrite])
        largest = int(encoded.rows[0].max())
        if largest >= self.encoder.vocab_size:
            raise BadInput(
                f"rewards: likelihood: token {largest} is outside the vocabulary of {self.lm.name},"
                f" {self.encoder.vocab_size}; use the tokenizer that belongs to the model",
                source=self.lm.path,
                field="tokenizer",
            )
        return encoded

    def _batches(self, encoded: Sequence[EncodedExample]) -> Iterator[tuple[int, list[int]]]:
        """(padded length, at most `batch_size` rows of this length)."""
        rows_of_length: dict[int, list[int]] = {}
        for row, example in enumerate(encoded):
            length = MIN_ROW_LENGTH
            while length < len(example.rows[0]):
                length *= 2
            length = min(length, self.encoder.max_length)
            rows_of_length.setdefault(length, []).append(row)
        for length, rows in rows_of_length.items():
            for start in range(0, len(rows), self.batch_size):
                yield length, rows[start : start + self.batch_size]


@functools.partial(jax.jit, static_argnums=0)
def _mean_log_probs(
    model: Any, variables: dict, ids_BxT: Int[Array, "B T"], answer_BxT: Bool[Array, "B T"]
) -> Float[Array, "B"]:
    """Mean over the answer's tokens of each row; 0 for a row without any."""
    logp_BxT = log_probs(model, variables, ids_BxT, CHUNK_SIZE, mask_BxT=answer_BxT)
    sum_B = jnp.sum(jnp.where(answer_BxT, logp_BxT, 0.0), axis=1)
    return sum_B / jnp.maximum(answer_BxT.sum(axis=1), 1)
