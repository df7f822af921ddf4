"""A small rule-based lemmatiser for English: inflected words to the form a dictionary lists.

Endings are taken off by spelling rules; where several bases are possible (`hoping`: hop, hope) one
that the given vocabulary knows wins, else the spelling decides: a short stem that did not double
its consonant had an e.
"""

import functools
import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet

WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?")
VOWEL = re.compile(r"[aeiouy]")
# One vowel before a last consonant other than w, x, y: English doubles it before -ing unless an e
# was there.
UNDOUBLED = re.compile(r"^[^aeiou]*[aeiou][^aeiouwxy]$")
USUAL_E = re.compile(r"(?:at|bl|iz|[vcuz]|[dlr]g)$")
DERIVED = frozenset(
    "y e er or ist ly ful less ness ing ed ish en ous al ic ical ian an ion tion ation ment ity age"
    " ery ry like es s ies fall side ward wards ism able".split()
)


def words(text: str) -> list[str]:
    """Lower-case words in order; hyphens separate, possessive endings go."""
    text = text.lower().replace("’", "'").replace("'s ", " ")
    return [w.removesuffix("'s") for w in WORD.findall(text)]


class Lemmatiser:
    """`vocabulary` decides between possible bases; `entries` are words in their own right: they
    lose no -er and -ly."""

    def __init__(
        self,
        vocabulary: AbstractSet[str],
        entries: AbstractSet[str],
        irregular: Mapping[str, str],
        uninflected: AbstractSet[str],
    ):
        self._vocabulary, self._entries = vocabulary, entries
        self._irregular, self._uninflected = irregular, uninflected
        self.lemma = functools.lru_cache(maxsize=65536)(self._lemma)

    def __call__(self, text: str) -> list[str]:
        return [self.lemma(word) for word in words(text)]

    def _lemma(self, word: str) -> str:
        if word in self._irregular:
            return self._irregular[word]
        if len(word) <= 3 or word in self._uninflected:
            return word
        bases, fallback = _inflected(word)
        if (
            not bases and word not in self._entries
        ):  # comparison and adverbs change the meaning more: known ones
            bases, fallback = _compared(word), word
        known = next((b for b in bases if b in self._vocabulary), fallback)
        return self._irregular.get(known, known)


def _inflected(word: str) -> tuple[list[str], str]:
    """Possible bases of a plural, third person, past or -ing form, likeliest first, and the one to
    take unknown."""
    if word.endswith(("ies", "ied")):
        return [word[:-3] + "y", word[:-1]], word[:-3] + "y"
    if word.endswith(("ches", "shes", "xes", "sses", "zes", "oes")):
        return [word[:-2], word[:-1]], word[:-2]
    if word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return [word[:-1], word[:-2]], word[:-1]
    for ending in ("ing", "ed"):
        stem = word.removesuffix(ending)
        if stem == word or len(stem) < 2 or not VOWEL.search(stem) or word.endswith("eed"):
            continue
        if len(stem) > 2 and stem[-1] == stem[-2] and stem[-1] not in "aeiou":
            single = stem[:-1]
            return [stem, single, stem + "e"], stem if stem[-1] in "lsz" else single
        if UNDOUBLED.match(stem):
            return [stem + "e"], stem + "e"
        return [stem, stem + "e"], stem + "e" if USUAL_E.search(stem) else stem
    return [], word


def _compared(word: str) -> list[str]:
    """Possible bases of -er, -est and -ly."""
    for ending in ("est", "er", "ly"):
        stem = word.removesuffix(ending)
        if stem != word and len(stem) > 2:
            bases = [stem, stem + "e", stem[:-1] + "y" if stem.endswith("i") else stem]
            return [*bases, stem[:-1]] if stem[-1] == stem[-2] else bases
    return []


def related(a: str, b: str) -> bool:
    """Whether two lemmas are one word but for a common ending (snow, snowy; celebrate,
    celebration)."""
    if a == b:
        return True
    a, b = sorted((a, b), key=len)
    if len(a) < 4:
        return False
    root = a.removesuffix("e") if len(a) > 4 else a
    root = root.removesuffix("y") if len(root) > 4 else root
    return b.startswith(root) and (
        b[len(root) :] in DERIVED or b[len(root) :].removeprefix("i") in DERIVED
    )
