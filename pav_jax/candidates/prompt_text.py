"""Cleaning and filtering of the users' prompts."""

import logging
import unicodedata
from collections import Counter
from collections.abc import Iterable

from pav_jax.errors import BadInput

log = logging.getLogger(__name__)

MAX_CHARACTERS = 2000  # a rewriter is for short prompts; video models read 226 to 512 tokens
MAX_DIGITS = 2  # the published method skips prompts with three or more digits (gpt_boost.py)


def plain_text(text: str) -> str:
    """Return the text on one line: control characters and line breaks become single spaces.

    Emoji and markup are kept.
    """
    return " ".join("".join(" " if unicodedata.category(c) == "Cc" else c for c in text).split())


def usable_prompts(prompts: Iterable[str], max_prompts: int | None = None) -> list[str]:
    """Return the distinct prompts worth rewriting, in order; log how many were skipped and why.

    Args:
      max_prompts: maximum number of prompts to return; None returns all.

    Raises:
      BadInput: no prompt is usable.
    """
    usable: dict[str, None] = {}
    skipped: Counter[str] = Counter()
    for text in prompts:
        prompt = plain_text(text)
        reason = "repeated" if prompt in usable else _problem(prompt)
        if reason:
            skipped[reason] += 1
        else:
            usable[prompt] = None
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(skipped.items()))
    if skipped:
        log.info("skipped prompts: %s", reasons)
    if not usable:
        raise BadInput(
            f"prompts: none is usable ({reasons or 'the list is empty'}); give one prompt per line",
            source="prompts",
        )
    return list(usable)[:max_prompts]


def _problem(prompt: str) -> str | None:
    if not prompt:
        return "empty"
    if len(prompt) > MAX_CHARACTERS:
        return f"over {MAX_CHARACTERS} characters"
    if sum(c.isdigit() for c in prompt) > MAX_DIGITS:
        return f"over {MAX_DIGITS} digits"
    return None
