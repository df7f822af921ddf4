"""A small rule-based lemmatiser for English: inflected words to the form in a dictionary.

Spelling rules strip endings. Where several bases are possible (`hoping`: hop, hope), one that is in
the given vocabulary wins. Otherwise the spelling decides: a short stem whose consonant is not
doubled ended in e.
"""

import functools
import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet

WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?")
VOWEL = re.compile(r"[aeiouy]")
# One vowel before a final consonant other than w, x, y: English doubles the consonant before -ing
# unless the base ends in e.
UNDOUBLED = re.compile(r"^[^aeiou]*[aeiou][^aeiouwxy]$")
USUAL_E = re.compile(r"(?:at|bl|iz|[vcuz]|[dlr]g)$")
MIN_ROOT = 4  # letters that derivations share
# endings of derivations, as in snow - snowy
DERIVED = frozenset(
    "y e er or ist ly ful less ness ing ed ish en ous al ic ical ian an ion tion ation ment ity age"  # noqa: SIM905
    " ery ry like es s ies fall side ward wards ism able".split()
)


def words(text: str) -> list[str]:
    """Lower-case words in order, split at hyphens, without possessive endings."""
    text = text.lower().replace("’", "'").replace("'s ", " ")
    return [word.removesuffix("'s") for word in WORD.findall(text)]


class Lemmatiser:
    """Maps words to lemmas.

    Args:
      vocabulary: words that are preferred among possible bases.
      entries: words that keep -er, -est and -ly.
      irregular: word -> lemma.
      uninflected: words that are their own lemmas.
    """

    def __init__(
        self,
        vocabulary: AbstractSet[str],
        entries: AbstractSet[str],
        irregular: Mapping[str, str],
        uninflected: AbstractSet[str],
    ):
        self.vocabulary = vocabulary
        self._entries = entries
        self._irregular = irregular
        self._uninflected = uninflected
        self.lemma = functools.lru_cache(maxsize=65536)(self._lemma)

    def __call__(self, text: str) -> list[str]:
        """The lemmas of a text's words."""
        return [self.lemma(word) for word in words(text)]

    def _lemma(self, word: str) -> str:
        if word in self._irregular:
            return self._irregular[word]
        if len(word) <= 3 or word in self._uninflected:
            return word
        bases, default = _inflected(word)
        # comparison and -ly change the meaning more: only to a base in the vocabulary
        if not bases and word not in self._entries:
            bases = _compared(word)
        lemma = next((base for base in bases if base in self.vocabulary), default)
        return self._irregular.get(lemma, lemma)


def _inflected(word: str) -> tuple[list[str], str]:
    """Possible bases of a plural, third person, past or -ing form.

    Returns:
      The bases, most likely first, and the one to use if the vocabulary has none of them.
    """
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
    """Whether two lemmas differ only in an ending (snow, snowy; celebrate, celebration)."""
    if a == b:
        return True
    if a[:MIN_ROOT] != b[:MIN_ROOT] or min(len(a), len(b)) < MIN_ROOT:
        return False
    a, b = sorted((a, b), key=len)
    root = a.removesuffix("e") if len(a) > MIN_ROOT else a
    root = root.removesuffix("y") if len(root) > MIN_ROOT else root
    ending = b[len(root) :]
    return b.startswith(root) and (ending in DERIVED or ending.removeprefix("i") in DERIVED)
