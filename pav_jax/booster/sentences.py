"""The sentences of a text."""

import re

from pav_jax.rewards.faith.items import QUOTE

SENTENCE_END = re.compile(  # not of "Mr.", "St." or an initial
    r"(?:\.(?=[\"'”’)\]]*\Z)|(?<!\b[A-Z])(?<!\b(?:Mr|Ms|Dr|St|Jr|Sr|vs))(?<!\b(?:Mrs|Rev|Gen|Col|Sgt))(?<!\bProf)\."
    r"|[!?…])"
    r"[\"'”’)\]]*(?=\s|\Z)"
)
NEXT_SENTENCE = re.compile(r"\s+[^\W\da-z]|\s*\Z")


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Return where each sentence of a text on one line begins and ends.

    A full stop within quotation marks ends a sentence only where the quotation ends with it and a
    new sentence follows. The last sentence may be unfinished.
    """
    ends = [match.end() for match in SENTENCE_END.finditer(_masked(text))]
    spans = zip([0, *ends], [*ends, len(text)], strict=True)
    return [(start, end) for start, end in spans if text[start:end].strip()]


def _masked(text: str) -> str:
    """The text, as long, without full stops within quotation marks that end no sentence."""
    for match in QUOTE.finditer(text):
        start, end = match.span(match.lastindex or 0)
        keeps_end = NEXT_SENTENCE.match(text, match.end()) is not None
        end -= keeps_end
        text = text[:start] + "x" * (end - start) + text[end:]
    return text
