"""Which of the user's prompts a stage works on."""

import logging
import unicodedata
from collections import Counter
from collections.abc import Iterable

from pav_jax.errors import BadInput

log = logging.getLogger(__name__)

MAX_CHARACTERS = 2000  # a short prompt is what a rewriter is for; video models read 226-512 tokens
MAX_DIGITS = 2  # the published method leaves out prompts with three or more digits (gpt_boost.py)


def plain_text(text: str) -> str:
    """`text` on one line: control characters and line ends become single spaces. Emoji and markup
    stay."""
    return " ".join("".join(" " if unicodedata.category(c) == "Cc" else c for c in text).split())


def usable_prompts(prompts: Iterable[str], count: int = 0) -> list[str]:
    """The first `count` (0: all) distinct prompts worth rewriting, in order; logs how many were
    left out and why.

    Raises:
      BadInput: nothing is left.
    """
    kept: dict[str, None] = {}
    dropped: Counter[str] = Counter()
    for text in prompts:
        prompt = plain_text(text)
        if not prompt:
            dropped["empty"] += 1
        elif len(prompt) > MAX_CHARACTERS:
            dropped[f"over {MAX_CHARACTERS} characters"] += 1
        elif sum(c.isdigit() for c in prompt) > MAX_DIGITS:
            dropped[f"over {MAX_DIGITS} digits"] += 1
        elif prompt in kept:
            dropped["repeated"] += 1
        else:
            kept[prompt] = None
    if dropped:
        log.info(
            "prompts left out: %s", ", ".join(f"{n} {why}" for why, n in sorted(dropped.items()))
        )
    if not kept:
        reasons = (
            ", ".join(f"{n} {why}" for why, n in sorted(dropped.items())) or "the list is empty"
        )
        raise BadInput(f"prompts: none can be used ({reasons}); give one prompt per line")
    return list(kept)[: count or None]
