"""Tokenizers of pipelines, and how many tokens a prompt has."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from pav_jax.checkpoints import tokenizers
from pav_jax.errors import BadInput
from pav_jax.video import sampling


def load_tokenizer(folder: Path) -> Any:
    """The transformers tokenizer in the pipeline `folder`.

    Raises:
      BadInput: it cannot be loaded, or has no token for padding.
    """
    folder = folder / "tokenizer"
    tokenizer = tokenizers.load_tokenizer(folder)
    if tokenizer.pad_token_id is None:
        raise BadInput(
            f"{folder}: the tokenizer has no pad_token, and texts are padded; set it in"
            " tokenizer_config.json",
            source=folder,
            field="pad_token",
        )
    return tokenizer


def tokenizer_class(tokenizer: Any) -> str:
    """The name of a tokenizer's class in model_index.json."""
    name = type(tokenizer).__name__
    return "PreTrainedTokenizerFast" if name == "TokenizersBackend" else name


def tokenize(
    tokenizer: Any, prompts: Sequence[str], length: int, vocab_size: int
) -> tuple[Int[np.ndarray, "B S"], list[int]]:
    """Token ids, padded to `length`, and the indices of prompts that were truncated to it.

    Raises:
      BadInput: the tokenizer has tokens that the text encoder does not have.
    """
    texts = [sampling.valid_unicode(prompt) for prompt in prompts]
    encoded = tokenizer(
        texts,
        padding="max_length",
        max_length=length,
        truncation=True,
        return_tensors="np",
        return_attention_mask=True,
    )
    ids = encoded["input_ids"].astype(np.int32)
    if ids.max(initial=0) >= vocab_size:
        raise BadInput(
            f"tokenizer: it gives token {ids.max()}, but the text encoder has {vocab_size} tokens;"
            " they do not belong together",
            field="tokenizer",
        )
    full = np.flatnonzero(encoded["attention_mask"].all(axis=1))
    # not verbose: the caller warns of truncation
    return ids, [
        int(i) for i in full if len(tokenizer(texts[i], verbose=False)["input_ids"]) > length
    ]


def checked_sequence_length(max_sequence_length: int | None, default: int, limit: int) -> int:
    """How many text tokens to read: `max_sequence_length`, or `default` if it is None.

    Raises:
      BadInput: more than `limit`, which the model was trained on.
    """
    if max_sequence_length is None:
        return default
    if max_sequence_length > limit:
        raise BadInput(
            f"max_sequence_length={max_sequence_length}: this model reads at most {limit} text"
            " tokens",
            source="generate",
            field="max_sequence_length",
        )
    return max_sequence_length
