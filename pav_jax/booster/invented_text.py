"""Texts to be read that a rewrite has and its prompt does not: a video would show them."""

import re
from collections.abc import Iterator

from pav_jax.booster.replies import SENTENCE_END
from pav_jax.rewards.faith.items import QUOTE

PROBLEM = "with text to be read that the prompt does not have"
WORD = re.compile(r"\w+")
# "The caption reads: summer days"; what follows in quotation marks is a match of QUOTE
ANNOUNCED = re.compile(
    r"\b(?:reads?|says?|reading|saying|captions?|titles?|text|words)\s?:\s?(\w+(?: \w+)?)", re.I
)
NEXT_SENTENCE = re.compile(r"\s+[^\W\da-z]|\s*\Z")


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
    ends = [match.end() for match in SENTENCE_END.finditer(_masked(scene))]
    spans = zip([0, *ends], [*ends, len(scene)], strict=True)
    rest = (
        scene[start:end].strip()
        for start, end in spans
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


def _masked(scene: str) -> str:
    """The scene, as long, without full stops within quotation marks that end no sentence."""
    for match in QUOTE.finditer(scene):
        start, end = match.span(match.lastindex or 0)
        keeps_end = NEXT_SENTENCE.match(scene, match.end()) is not None
        end -= keeps_end
        scene = scene[:start] + "x" * (end - start) + scene[end:]
    return scene
