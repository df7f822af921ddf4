"""A prompt and its answers as token ids, as training, sampling and scoring share them.

A prompt goes through the model's chat template with the generation prompt; the answer's tokens and
the end-of-sequence token follow. The number of prompt tokens says where the answer starts; it is
never searched for in the text.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pav_jax.errors import BadInput
from pav_jax.language.language_model import LanguageModel

# A truncated answer with fewer tokens says nothing about what makes a rewrite good.
MIN_TRUNCATED_ANSWER = 4


@dataclasses.dataclass(frozen=True)
class Encoder:
    """Turns the texts of an example into token ids.

    Attributes:
      prompt_ids: a prompt's token ids through the chat template, generation prompt included.
      eos: the token that ends an answer.
      vocab_size: of the model.
      max_length: tokens of prompt and answer.
      max_prompt_length: tokens of the prompt.
    """

    tokenizer: Any
    prompt_ids: Callable[[str], Sequence[int]]
    eos: int
    vocab_size: int
    max_length: int
    max_prompt_length: int

    @property
    def padding(self) -> int:
        """The padding token. It may equal `eos`: masks come from lengths, not from this token."""
        pad = self.tokenizer.pad_token_id
        return 0 if pad is None else pad

    def encode_prompt(self, text: str) -> tuple[list[int], bool]:
        """Return (a prompt's ids, whether it was truncated).

        A prompt of more than `max_prompt_length` tokens loses tokens on its left, after the
        beginning-of-sequence token.
        """
        ids = list(self.prompt_ids(text))
        # leaves room for one token of the answer and the end-of-sequence token
        limit = min(self.max_prompt_length, self.max_length - 2)
        if len(ids) <= limit:
            return ids, False
        head = ids[:1] if ids[0] == self.tokenizer.bos_token_id else []
        return head + ids[len(ids) - limit + len(head) :], True

    def encode(self, prompt: str, answers: Sequence[str]) -> "EncodedExample":
        """Encode a prompt with each of its answers, truncated on the right to `max_length`."""
        ids, prompt_truncated = self.encode_prompt(prompt)
        rows = []
        for text in answers:
            answer_ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            rows.append(np.asarray([*ids, *answer_ids, self.eos], np.int32))
        return EncodedExample(
            rows=[row[: self.max_length] for row in rows],
            num_prompt_tokens=len(ids),
            prompt_truncated=prompt_truncated,
            answer_truncated=any(len(row) > self.max_length for row in rows),
        )


@dataclasses.dataclass(frozen=True)
class EncodedExample:
    """Token ids of prompt + answer, one row for each answer."""

    rows: list[np.ndarray]
    num_prompt_tokens: int
    prompt_truncated: bool
    answer_truncated: bool

    @property
    def is_usable(self) -> bool:
        """Whether truncation left enough of the answers, and a difference between them."""
        if not self.answer_truncated:
            return True
        num_tokens = max(map(len, self.rows)) - self.num_prompt_tokens
        is_same = len(self.rows) > 1 and all(np.array_equal(self.rows[0], r) for r in self.rows[1:])
        return num_tokens >= MIN_TRUNCATED_ANSWER and not is_same


def make_encoder(lm: LanguageModel, max_length: int, max_prompt_length: int) -> Encoder:
    """The encoder for a model's tokenizer and chat template.

    Raises:
      BadInput: neither tokenizer nor model configuration names an end-of-sequence token.
    """
    eos = lm.tokenizer.eos_token_id
    if eos is None:
        eos = next(iter(lm.eos), None)
    if eos is None:
        raise BadInput(
            f"{lm.name}: neither tokenizer nor configuration names an eos_token; answers could"
            " not end",
            source=lm.name,
            field="eos_token",
        )
    return Encoder(
        lm.tokenizer, lm.prompt_ids, eos, lm.config.vocab_size, max_length, max_prompt_length
    )
