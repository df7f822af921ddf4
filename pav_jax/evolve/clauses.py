"""Splitting of texts into clauses and content words."""

import dataclasses
import functools
import re
from collections.abc import Sequence

from pav_jax.rewards.faithfulness import load_lexicon

MAX_LISTED_WORDS = 6  # a new clause joins the list only after a clause this short

_BREAK = re.compile(
    r"(\s*(?:[.,;!?:/]+(?=\s|$)(?:\s+(?:and|while)(?=\s))?|\s/(?=\s)|\sand(?=\s)|\swhile(?=\s))\s*)"
)
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_FUNCTION_WORDS = (
    "a an the this that these those some any its his her their our my your it he she they we i",
    "you is are was were be been being am do does did has have had will would can could may of",
    "in on at by to from with without for and or but as while then so very into onto over under",
    "up down out off near there here one who which what where when not no it's video clip",
    "footage film shot scene",
)
FUNCTION_WORDS = frozenset(word for line in _FUNCTION_WORDS for word in line.split())


@dataclasses.dataclass(frozen=True)
class Clause:
    """A clause and the separator after it.

    Attributes:
      text: the words of the clause.
      end: the separator: punctuation or "and", with spaces.
    """

    text: str
    end: str

    @property
    def normal_form(self) -> str:
        """The text in lower case with single spaces."""
        return normal_form(self.text)


def normal_form(text: str) -> str:
    """Return the text in lower case with single spaces."""
    return " ".join(text.lower().split())


def split_clauses(text: str) -> list[Clause]:
    """Split a text into clauses; `join_clauses` restores the same text."""
    pieces = _BREAK.split(text)
    pairs = zip(pieces[::2], [*pieces[1::2], ""], strict=True)
    return [Clause(body, end) for body, end in pairs if body or end]


def join_clauses(clauses: Sequence[Clause]) -> str:
    """Join clauses into a text."""
    return "".join(clause.text + clause.end for clause in clauses)


def words(text: str) -> list[str]:
    """Return the words in lower case; hyphens and apostrophes do not split a word."""
    return [word.lower() for word in _WORD.findall(text)]


@functools.lru_cache(maxsize=65536)
def root(word: str) -> str:
    """Return the common root of "bounces" and "bouncing", or of "noise" and "noisy".

    The root is the lemma without a final e or y and without a doubled final letter.
    """
    lemma = load_lexicon().lemmatise.lemma(word)
    if lemma.endswith(("e", "y")) and len(lemma) > 3:
        lemma = lemma[:-1]
    return lemma[:-1] if len(lemma) > 3 and lemma[-1] == lemma[-2] else lemma


def content(text: str) -> frozenset[str]:
    """Return the roots of the content words."""
    return frozenset(root(word) for word in words(text) if word not in FUNCTION_WORDS)


def with_case_of(text: str, reference: str) -> str:
    """Return `text` with its first letter in the case of the first letter of `reference`."""
    first = text[:1].upper() if reference[:1].isupper() else text[:1].lower()
    return first + text[1:]


def replace_clause(clauses: Sequence[Clause], i: int, text: str) -> list[Clause]:
    """Return the clauses with the text of clause `i` replaced."""
    old = clauses[i]
    return [*clauses[:i], Clause(with_case_of(text, old.text), old.end), *clauses[i + 1 :]]


def remove_clause(clauses: Sequence[Clause], i: int) -> list[Clause]:
    """Return the clauses without clause `i`; the previous clause takes over its separator."""
    if i == 0:
        return list(clauses[1:])
    before = clauses[i - 1]
    return [*clauses[: i - 1], Clause(before.text, clauses[i].end or before.end), *clauses[i + 1 :]]


def append_clause(clauses: Sequence[Clause], text: str) -> list[Clause]:
    """Append a clause: to the list that a short last clause ends, else as a new sentence."""
    last = clauses[-1]
    in_list = len(clauses) > 1 and len(last.text.split()) <= MAX_LISTED_WORDS
    end = ". "
    if in_list:
        is_list_separator = clauses[-2].end.strip() in (",", ";", "/")
        end = clauses[-2].end if is_list_separator else ", "
    text = with_case_of(text, "x" if in_list else clauses[0].text)
    return [*clauses[:-1], Clause(last.text, end), Clause(text, last.end.strip() or ".")]
