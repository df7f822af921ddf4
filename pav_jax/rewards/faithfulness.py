"""FAITH: how much of the user's prompt a rewrite keeps, from the two texts alone.

The prompt is read as units: its subjects, attributes, counts, motions, places, styles and camera
words, by longest match against a concept lexicon, plus every content word the lexicon does not
know. The score is the weighted share of units the rewrite still says. A unit is kept by the same
word in any inflection, by a synonym (crimson keeps red), by a narrower word (corgi keeps dog), by a
close derivation (snowy keeps snow); a broader word (dog for corgi) counts half. Words such as
"person" or "view" weigh less, since almost any text has them.

What it does not see: which noun an attribute belongs to, and negation.
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pav_jax.errors import BadInput
from pav_jax.rewards.fingerprint import fingerprint
from pav_jax.rewards.lemmas import Lemmatiser, related, words
from pav_jax.rewards.options import FaithfulnessOptions
from pav_jax.rewards.reward import PretrainedReward
from pav_jax.storage.json_files import read_json

LEXICON = Path(__file__).with_name("lexicon.json")
GENERIC_WEIGHT = 0.25
BROADER_CREDIT = 0.5

Concept = tuple[str, str]  # (category, concept)


@dataclasses.dataclass(frozen=True)
class Unit:
    """Something the prompt asks for. `text` is as the user wrote it, `category` e.g. "colour"
    ("other" if unknown)."""

    text: str
    category: str
    weight: float
    lemmas: tuple[str, ...]
    concepts: frozenset[Concept]
    broader: frozenset[Concept]


@dataclasses.dataclass(frozen=True)
class Said:
    """What a rewrite says: its lemmas (neighbours joined, too: tea pot, teapot), the concepts it
    names, and the kinds
    of the narrower words in it (corgi: dog)."""

    lemmas: frozenset[str]
    named: frozenset[Concept]
    kinds: frozenset[Concept]


class Lexicon:
    """Phrases to concepts. See the "about" field of the data file for its layout.

    Raises:
      BadInput: the file is missing, not JSON, or lacks a field.
    """

    def __init__(self, path: str | Path = LEXICON):
        self.path = Path(path)
        data = read_json(path)
        fields = ("concepts", "kinds", "generic", "stop", "irregular", "uninflected")
        if missing := [f for f in fields if f not in data]:
            raise BadInput(
                f"{path}: field {missing[0]!r} is missing; see the lexicon.json that comes with the"
                " package"
            )
        concepts, kinds = data["concepts"], data["kinds"]
        phrases = [
            p
            for group in concepts.values()
            for name, synonyms in group.items()
            for p in (name, *synonyms)
        ]
        phrases += [p for narrower in kinds.values() for p in narrower]
        known = [*phrases, *data["generic"], *data["stop"], *data["irregular"].values()]
        vocabulary = {word for phrase in known for word in words(phrase)}
        entries = frozenset(phrase for phrase in known if " " not in phrase)
        self.lemmatise = Lemmatiser(
            vocabulary, entries, data["irregular"], frozenset(data["uninflected"])
        )
        self.stop = frozenset(data["stop"])
        self.generic = frozenset(self.lemmatise.lemma(w) for w in data["generic"])
        self._meanings: dict[tuple[str, ...], set[Concept]] = {}
        self._broader: dict[tuple[str, ...], set[Concept]] = {}
        for category, group in concepts.items():
            for name, synonyms in group.items():
                for phrase in (name, *synonyms):
                    self._meanings.setdefault(tuple(self.lemmatise(phrase)), set()).add(
                        (category, name)
                    )
        for name, narrower in kinds.items():
            own = {
                c for c in self._meanings.get(tuple(self.lemmatise(name)), ()) if c[1] == name
            } or {("kind", name)}
            self._meanings.setdefault(tuple(self.lemmatise(name)), set()).update(own)
            for phrase in narrower:
                self._broader.setdefault(tuple(self.lemmatise(phrase)), set()).update(own)
        self._longest = max(map(len, self._meanings))
        self._order = {category: i for i, category in enumerate(concepts)}

    def units(self, prompt: str) -> list[Unit]:
        """The prompt's units, each once, left to right."""
        surface = words(prompt)
        lemmas = [self.lemmatise.lemma(w) for w in surface]
        units, at = {}, 0
        while at < len(lemmas):
            length = self._match(lemmas, at)
            if length > 1 or not self._empty(surface[at], lemmas[at]):
                key = tuple(lemmas[at : at + max(length, 1)])
                units.setdefault(key, self._unit(" ".join(surface[at : at + len(key)]), key))
            at += max(length, 1)
        return list(units.values())

    def _match(self, lemmas: list[str], at: int) -> int:
        """Words of the longest known phrase at `at`; one that is only function words does not
        count."""
        for length in range(min(self._longest, len(lemmas) - at), 0, -1):
            phrase = tuple(lemmas[at : at + length])
            if (phrase in self._meanings or phrase in self._broader) and not all(
                w in self.stop for w in phrase
            ):
                return length
        return 0

    def _empty(self, word: str, lemma: str) -> bool:
        return word in self.stop or lemma in self.stop or (len(word) == 1 and not word.isdigit())

    def _unit(self, text: str, key: tuple[str, ...]) -> Unit:
        concepts = frozenset(self._meanings.get(key, ()))
        category = min(
            (c for c, _ in concepts), key=lambda c: self._order.get(c, 99), default="other"
        )
        weight = GENERIC_WEIGHT if all(w in self.generic or w in self.stop for w in key) else 1.0
        return Unit(text, category, weight, key, concepts, frozenset(self._broader.get(key, ())))

    def said(self, text: str) -> Said:
        """Everything any stretch of `text` names."""
        lemmas = self.lemmatise(text)
        named: set[Concept] = set()
        kinds: set[Concept] = set()
        for at in range(len(lemmas)):
            for length in range(1, min(self._longest, len(lemmas) - at) + 1):
                phrase = tuple(lemmas[at : at + length])
                named |= self._meanings.get(phrase, set())
                kinds |= self._broader.get(phrase, set())
        joined = (a + b for a, b in zip(lemmas, lemmas[1:], strict=False))
        return Said(frozenset(lemmas) | frozenset(joined), frozenset(named), frozenset(kinds))

    def kept(self, unit: Unit, said: Said) -> float:
        """1 where `said` keeps the unit, 0.5 where it says something broader, else 0."""
        if unit.concepts & (said.named | said.kinds):
            return 1.0
        content = [w for w in unit.lemmas if w not in self.stop]
        if all(
            w in said.lemmas or any(related(w, other) for other in said.lemmas) for w in content
        ):
            return 1.0
        return BROADER_CREDIT if unit.broader & said.named else 0.0


@functools.cache
def lexicon(path: str | Path = LEXICON) -> Lexicon:
    return Lexicon(path)


def faithfulness(prompt: str, refined: str, words: Lexicon | None = None) -> float:
    """The share in [0, 1] of `prompt` that survives in `refined`; 1 for a prompt that asks for
    nothing."""
    words = words or lexicon()
    units = words.units(prompt)
    if not units:
        return 1.0
    said = words.said(refined)
    return sum(u.weight * words.kept(u, said) for u in units) / sum(u.weight for u in units)


class Faithfulness(PretrainedReward):
    """FAITH behind the suite's protocol. Without rewrites there is nothing to measure, and no score
    comes back."""

    names = ("FAITH",)
    options = FaithfulnessOptions

    def __init__(self, words: Lexicon | None = None):
        self.lexicon = words or lexicon()

    @functools.cached_property
    def fingerprint(self) -> str:
        return fingerprint("faithfulness", lexicon=self.lexicon.path)

    @classmethod
    def from_pretrained(cls, path: str | Path | None = None) -> "Faithfulness":
        """`path`: a folder with another lexicon.json, or such a file; the package's own where
        None."""
        if path is None:
            return cls()
        path = Path(path)
        return cls(lexicon(path / "lexicon.json" if path.is_dir() else path))

    def score(
        self, videos, prompts: Sequence[str], refined: Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        if refined is None:
            return {}
        pairs = zip(prompts, refined, strict=True)
        return {"FAITH": np.array([faithfulness(p, r, self.lexicon) for p, r in pairs], np.float32)}
