"""Words that the dictionary does not have, such as trigger words of LoRAs.

They are names if they have two capitals, or if they are spelt like no English word.
"""

import html
import re
from collections.abc import Iterator

from pav_jax.booster.prompt_syntax.parts import Kind, Span
from pav_jax.rewards.faithfulness import load_lexicon

WORD = re.compile(r"[^\W_]{1,60}")
MIN_LENGTH = 3  # of a name in small letters
VOWELS = frozenset("aeiouy")
# letters that no English word has side by side, names and loanwords aside
ODD_PAIR = re.compile(
    "q[^u]|[bcdfghjkmpqstvwxz]x|x[bdfgjkmnqrsvwxz]|z[bcdfgjkmnpqrstvwx]|j[^aeiouy]|v[bcdfghjkmnpqtwxz]"
)
SHOUTED = 0.5  # share of words in capitals above which capitals do not mark names


def split_names(text: str, shouted: bool) -> Iterator[Span]:
    """Split a text at its names.

    Args:
      text: as typed.
      shouted: whether words in capitals do not mark names.
    """
    start = 0
    for match in WORD.finditer(text):
        if not _is_name(match[0], shouted):
            continue
        if match.start() > start:
            yield _text(text[start : match.start()])
        yield Span(Kind.NAME, match[0], said=match[0], value=match[0])
        start = match.end()
    if start < len(text):
        yield _text(text[start:])


def is_shouted(text: str) -> bool:
    """Whether most words of a text are in capitals."""
    words = [word for word in WORD.findall(text) if len(word) > 1 and word.isalpha()]
    capitals = sum(word.isupper() for word in words)
    return len(words) > 2 and capitals > SHOUTED * len(words)


def _is_name(word: str, shouted: bool) -> bool:
    if word.islower():
        return word.isascii() and word.isalpha() and is_trigger(word)
    capitals = sum(letter.isupper() for letter in word)
    if capitals < 2 or (shouted and word.isalpha() and word.isupper()):
        return False
    return not load_lexicon().knows(word)


def is_trigger(word: str) -> bool:
    """Whether a word in small letters is spelt like no English word, and not in the dictionary."""
    if len(word) < MIN_LENGTH or (VOWELS & set(word) and not ODD_PAIR.search(word)):
        return False
    return not load_lexicon().knows(word)


def _text(typed: str) -> Span:
    return Span(Kind.TEXT, typed, said=html.unescape(typed))
