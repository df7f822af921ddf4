"""A concept lexicon: words that say the same, and the units of a prompt by longest match."""

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

from pav_jax.errors import BadInput
from pav_jax.rewards.lemmas import Lemmatiser, related, words
from pav_jax.storage.json_files import read_json
from pav_jax.typed_fields import read_fields

LEXICON = Path(__file__).parents[1] / "lexicon.json"
GENERIC_WEIGHT = 0.25
BROADER_CREDIT = 0.5

Concept = tuple[str, str]  # (category, concept)


@dataclasses.dataclass(frozen=True)
class LexiconFile:
    """The content of a lexicon file; its field "about" describes it."""

    concepts: dict[str, dict[str, tuple[str, ...]]]
    kinds: dict[str, tuple[str, ...]]
    generic: tuple[str, ...]
    stop: tuple[str, ...]
    irregular: dict[str, str]
    uninflected: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Unit:
    """One thing that the prompt asks for.

    Attributes:
      text: as the user wrote it.
      category: such as "colour"; "other" where the lexicon has no concept for it.
      weight: in the score.
      lemmas: of the text's words.
      concepts: that the text names.
      broader: concepts that are broader than the text (dog for corgi).
    """

    text: str
    category: str
    weight: float
    lemmas: tuple[str, ...]
    concepts: frozenset[Concept]
    broader: frozenset[Concept]


@dataclasses.dataclass(frozen=True)
class Mentions:
    """What a rewrite mentions.

    Attributes:
      lemmas: of its words, and of neighbouring words joined (tea pot: teapot).
      concepts: that it names.
      broader: concepts that are broader than its words (dog, if it names a corgi).
    """

    lemmas: frozenset[str]
    concepts: frozenset[Concept]
    broader: frozenset[Concept]


class Lexicon:
    """A concept lexicon. The field "about" of the data file describes its layout."""

    def __init__(self, path: str | Path = LEXICON):
        """Reads a lexicon file.

        Raises:
          BadInput: the file is missing, not JSON, or lacks a field.
        """
        self.path = Path(path)
        data = read_fields(LexiconFile, read_json(path), str(path))
        if not any(data.concepts.values()):
            raise BadInput(f"{path}: concepts is empty; name at least one", path, "concepts")
        self.lemmatise = _make_lemmatiser(data)
        self.vocabulary = self.lemmatise.vocabulary
        self.stop = frozenset(data.stop)
        self.generic = frozenset(self.lemmatise.lemma(word) for word in data.generic)
        self._concepts: dict[tuple[str, ...], set[Concept]] = {}
        self._broader: dict[tuple[str, ...], set[Concept]] = {}
        self._add_concepts(data.concepts)
        self._add_kinds(data.kinds)
        self._longest: dict[str, int] = {}  # words of the longest phrase that begins with a word
        for phrase in (*self._concepts, *self._broader):
            self._longest[phrase[0]] = max(self._longest.get(phrase[0], 0), len(phrase))
        self._category_rank = {category: rank for rank, category in enumerate(data.concepts)}

    def knows(self, word: str) -> bool:
        """Whether the lexicon has a word, in any inflection and case."""
        word = word.lower()
        return word in self.stop or self.lemmatise.lemma(word) in self.vocabulary

    def units(self, prompt: str) -> list[Unit]:
        """The prompt's units, each once, from left to right."""
        surface = words(prompt)
        lemmas = [self.lemmatise.lemma(word) for word in surface]
        units: dict[tuple[str, ...], Unit] = {}
        start = 0
        while start < len(lemmas):
            length = self.match(lemmas, start)
            if length > 1 or not self._is_function_word(surface[start], lemmas[start]):
                key = tuple(lemmas[start : start + max(length, 1)])
                text = " ".join(surface[start : start + len(key)])
                units.setdefault(key, self._unit(text, key))
            start += max(length, 1)
        return list(units.values())

    def mentions(self, text: str) -> Mentions:
        """Everything that the words and phrases of `text` mention."""
        lemmas = self.lemmatise(text)
        return self.mentions_of(lemmas)

    def mentions_of(self, lemmas: Sequence[str]) -> Mentions:
        """Everything that words and phrases mention, from their lemmas in order."""
        concepts: set[Concept] = set()
        broader: set[Concept] = set()
        for start in range(len(lemmas)):
            longest = self._longest.get(lemmas[start], 0)
            for length in range(1, min(longest, len(lemmas) - start) + 1):
                phrase = tuple(lemmas[start : start + length])
                concepts |= self._concepts.get(phrase, set())
                broader |= self._broader.get(phrase, set())
        joined = (first + second for first, second in itertools.pairwise(lemmas))
        return Mentions(frozenset((*lemmas, *joined)), frozenset(concepts), frozenset(broader))

    def credit(self, unit: Unit, mentions: Mentions) -> float:
        """1 where a rewrite mentions the unit, 0.5 where it mentions a broader concept, else 0."""
        if unit.concepts & (mentions.concepts | mentions.broader):
            return 1.0
        content = [lemma for lemma in unit.lemmas if lemma not in self.stop]
        if unit.category == "camera":  # "tilt up" is not "tilt down"
            content = list(unit.lemmas)
        if all(
            lemma in mentions.lemmas or any(related(lemma, other) for other in mentions.lemmas)
            for lemma in content
        ):
            return 1.0
        return BROADER_CREDIT if unit.broader & mentions.concepts else 0.0

    def concepts_of(self, phrase: tuple[str, ...]) -> tuple[frozenset[Concept], frozenset[Concept]]:
        """The concepts that a phrase of lemmas names, and those broader than it."""
        concepts = frozenset(self._concepts.get(phrase, ()))
        return concepts, frozenset(self._broader.get(phrase, ()))

    def category(self, concepts: frozenset[Concept]) -> str:
        """The first category of concepts in the order of the file; "" without concepts."""
        return min(
            (category for category, _ in concepts),
            # concepts of "kinds" may be in no category of the file: they come last
            key=lambda category: self._category_rank.get(category, len(self._category_rank)),
            default="",
        )

    def _add_concepts(self, concepts: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
        for category, group in concepts.items():
            for name, synonyms in group.items():
                for phrase in (name, *synonyms):
                    key = tuple(self.lemmatise(phrase))
                    self._concepts.setdefault(key, set()).add((category, name))

    def _add_kinds(self, kinds: Mapping[str, Sequence[str]]) -> None:
        for name, narrower in kinds.items():
            key = tuple(self.lemmatise(name))
            own = {concept for concept in self._concepts.get(key, ()) if concept[1] == name}
            own = own or {("kind", name)}
            self._concepts.setdefault(key, set()).update(own)
            for phrase in narrower:
                self._broader.setdefault(tuple(self.lemmatise(phrase)), set()).update(own)

    def match(self, lemmas: Sequence[str], start: int) -> int:
        """The number of words of the longest known phrase at `start`, ignoring phrases of function
        words alone; 0 without one."""
        longest = self._longest.get(lemmas[start], 0)
        for length in range(min(longest, len(lemmas) - start), 0, -1):
            phrase = tuple(lemmas[start : start + length])
            is_known = phrase in self._concepts or phrase in self._broader
            if is_known and not all(lemma in self.stop for lemma in phrase):
                return length
        return 0

    def _is_function_word(self, word: str, lemma: str) -> bool:
        is_letter = len(word) == 1 and not word.isdigit()
        return word in self.stop or lemma in self.stop or is_letter

    def _unit(self, text: str, key: tuple[str, ...]) -> Unit:
        concepts = frozenset(self._concepts.get(key, ()))
        category = self.category(concepts) or "other"
        is_generic = all(lemma in self.generic or lemma in self.stop for lemma in key)
        weight = GENERIC_WEIGHT if is_generic else 1.0
        return Unit(text, category, weight, key, concepts, frozenset(self._broader.get(key, ())))


def _make_lemmatiser(data: LexiconFile) -> Lemmatiser:
    phrases = [
        phrase
        for group in data.concepts.values()
        for name, synonyms in group.items()
        for phrase in (name, *synonyms)
    ]
    phrases += [phrase for narrower in data.kinds.values() for phrase in narrower]
    phrases += [*data.generic, *data.stop, *data.irregular.values()]
    vocabulary = {word for phrase in phrases for word in words(phrase)}
    entries = frozenset(phrase for phrase in phrases if " " not in phrase)
    return Lemmatiser(vocabulary, entries, data.irregular, frozenset(data.uninflected))


@functools.cache
def load_lexicon(path: str | Path = LEXICON) -> Lexicon:
    """The lexicon of a file, read once."""
    return Lexicon(path)
