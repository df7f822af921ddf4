"""Texts to be read that a rewrite has and its prompt does not: a video would show them."""

import re
from collections.abc import Iterator

from pav_jax.booster.sentences import sentence_spans
from pav_jax.rewards.faith.items import QUOTE

PROBLEM = "with text to be read that the prompt does not have"
WORD = re.compile(r"\w+")
# "The caption reads: summer days"; what follows in quotation marks is a match of QUOTE
ANNOUNCED = re.compile(
    r"\b(?:reads?|says?|reading|saying|captions?|titles?|text|words)\s?:\s?(\w+(?: \w+)?)", re.I
)


def without_invented(scene: str, prompt: str) -> str:
    """Leave out the sentences that quote or announce words that the prompt does not have.

    Args:
      scene: a rewrite on one line.
      prompt: what the user typed; case and punctuation do not matter.

    Returns:
      The other sentences; "" without any.
    """
    own = f" {_words(prompt)} "
    said = (match for match in _said(scene) if f" {_words(_content(match))} " not in own)
    invented = [match.start() for match in said if WORD.search(_content(match))]
    if not invented:
        return scene
    rest = (
        scene[start:end].strip()
        for start, end in sentence_spans(scene)
        if not any(start <= position < end for position in invented)
    )
    return " ".join(filter(None, rest))


def _said(scene: str) -> Iterator[re.Match[str]]:
    yield from QUOTE.finditer(scene)
    yield from ANNOUNCED.finditer(scene)


def _content(match: re.Match[str]) -> str:
    return match[match.lastindex or 0]


def _words(text: str) -> str:
    return " ".join(WORD.findall(text.casefold()))
