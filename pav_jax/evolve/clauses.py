"""Texts as clauses and content words."""

import dataclasses
import functools
import re
from collections.abc import Sequence

from pav_jax.rewards.faithfulness import load_lexicon

MAX_LISTED_WORDS = 6  # a clause of at most so many words reads well in a list

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
    """A piece of text.

    Attributes:
      text: its words.
      end: what follows it: punctuation or "and", with spaces.
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
    """Split a text into clauses, of which `join_clauses` makes the same text again."""
    pieces = _BREAK.split(text)
    pairs = zip(pieces[::2], [*pieces[1::2], ""], strict=True)
    return [Clause(body, end) for body, end in pairs if body or end]


def join_clauses(clauses: Sequence[Clause]) -> str:
    """Return the text of some clauses."""
    return "".join(clause.text + clause.end for clause in clauses)


def words(text: str) -> list[str]:
    """Return the words in lower case; hyphens and apostrophes stay inside a word."""
    return [word.lower() for word in _WORD.findall(text)]


@functools.lru_cache(maxsize=65536)
def root(word: str) -> str:
    """Return what "bounces" and "bouncing", or "noise" and "noisy", have in common.

    This is the lemma without a final e or y and without doubled consonants.
    """
    lemma = load_lexicon().lemmatise.lemma(word)
    if lemma.endswith(("e", "y")) and len(lemma) > 3:
        lemma = lemma[:-1]
    return lemma[:-1] if len(lemma) > 3 and lemma[-1] == lemma[-2] else lemma


def content(text: str) -> frozenset[str]:
    """Return the roots of the words that carry meaning."""
    return frozenset(root(word) for word in words(text) if word not in FUNCTION_WORDS)


def with_case_of(text: str, model: str) -> str:
    """Return `text` with a capital first letter if `model` has one, else with a small one."""
    first = text[:1].upper() if model[:1].isupper() else text[:1].lower()
    return first + text[1:]


def replace_clause(clauses: Sequence[Clause], i: int, text: str) -> list[Clause]:
    """Return the clauses with another text for clause `i`."""
    old = clauses[i]
    return [*clauses[:i], Clause(with_case_of(text, old.text), old.end), *clauses[i + 1 :]]


def remove_clause(clauses: Sequence[Clause], i: int) -> list[Clause]:
    """Return the other clauses; the one before takes over the end, so that a sentence ends."""
    if i == 0:
        return list(clauses[1:])
    before = clauses[i - 1]
    return [*clauses[: i - 1], Clause(before.text, clauses[i].end or before.end), *clauses[i + 1 :]]


def append_clause(clauses: Sequence[Clause], text: str) -> list[Clause]:
    """Return the clauses with one more: listed with the last if that is short, else a sentence."""
    last = clauses[-1]
    listing = len(clauses) > 1 and len(last.text.split()) <= MAX_LISTED_WORDS
    end = ". "
    if listing:
        listed = clauses[-2].end.strip() in (",", ";", "/")
        end = clauses[-2].end if listed else ", "
    text = with_case_of(text, "x" if listing else clauses[0].text)
    return [*clauses[:-1], Clause(last.text, end), Clause(text, last.end.strip() or ".")]
