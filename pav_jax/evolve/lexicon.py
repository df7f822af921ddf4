"""General English phrases about the look of a video (`phrases.json`)."""

import dataclasses
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Annotated

import numpy as np

from pav_jax.errors import BadInput
from pav_jax.evolve.clauses import content
from pav_jax.storage.json_files import read_json
from pav_jax.typed_fields import MAX_ENTRIES, Length, read_fields

PHRASES = Path(__file__).parent / "phrases.json"

POOR = 0
GOOD = 2
MAX_WORDS_BETWEEN = 4  # maximum distance between a level word and the aspect word that it describes
FAMILIAR_WEIGHT = 4.0  # sampling weight of a level word that the pool uses; other words have 1


def _pattern(phrases: Collection[str]) -> re.Pattern[str]:
    if not phrases:
        return re.compile(r"(?!)")  # matches nothing
    longest_first = sorted(phrases, key=lambda p: (-len(p), p))
    either = r"\b(?:" + "|".join(map(re.escape, longest_first)) + r")\b"
    return re.compile(either, re.IGNORECASE)


Words = Annotated[tuple[str, ...], Length(1, MAX_ENTRIES)]


@dataclasses.dataclass(frozen=True)
class Aspect:
    """An aspect of a video's look.

    Attributes:
      about: words that name it ("light").
      levels: words from POOR to GOOD that describe it ("dim", ..., "bright"): three lists, or
        none.
      alone: pairs of words that name both aspect and level ("blurry", "sharp").
      phrases: whole phrases about it.
    """

    about: Words
    levels: tuple[Words, ...]
    alone: tuple[tuple[str, str], ...]
    phrases: Words


@dataclasses.dataclass(frozen=True)
class PhrasesFile:
    """The fields of `phrases.json`."""

    aspects: dict[str, Aspect]


def _read_aspects(path: str | os.PathLike) -> dict[str, Aspect]:
    source = os.fspath(path)
    aspects = read_fields(PhrasesFile, read_json(path), source).aspects
    if not aspects:
        raise BadInput(f"{source}: aspects is empty; name at least one", source, "aspects")
    for name, aspect in aspects.items():
        if len(aspect.levels) not in (0, GOOD + 1):
            field = f"aspects.{name}.levels"
            raise BadInput(f"{source}: {field}: give three lists of words, or none", source, field)
    return aspects


class Lexicon:
    """Aspects of a video's look, the words that name them, and phrases from poor to good for each.

    Args:
      path: a file that replaces `phrases.json`.

    Attributes:
      phrases: aspect -> phrases about it.
      roots: roots of all words in the file.

    Raises:
      BadInput: the file is unreadable or not a phrase list.
    """

    def __init__(self, path: str | Path | None = None):
        path = path or PHRASES
        aspects = _read_aspects(path)
        self.phrases = {a: list(aspect.phrases) for a, aspect in aspects.items()}
        self._levels = {a: aspect.levels for a, aspect in aspects.items()}
        self._opposites = {a: aspect.alone for a, aspect in aspects.items()}
        self._about = {a: _pattern(aspect.about) for a, aspect in aspects.items()}
        names = [word for aspect in aspects.values() for word in aspect.about]
        self._opposite_words = {
            a: _pattern([p for pair in pairs for p in pair]) for a, pairs in self._opposites.items()
        }
        graded = [w for levels in self._levels.values() for level in levels for w in level]
        opposites = [p for pairs in self._opposites.values() for pair in pairs for p in pair]
        listed = [p for phrases in self.phrases.values() for p in phrases]
        texts = [*names, *graded, *opposites, *listed]
        self.roots = frozenset().union(*(content(text) for text in texts))

    @property
    def aspects(self) -> tuple[str, ...]:
        """The names of the aspects."""
        return tuple(self.phrases)

    def about(self, text: str) -> frozenset[str]:
        """Return the aspects that `text` mentions."""
        return frozenset(
            aspect
            for aspect in self.phrases
            if self._about[aspect].search(text) or self._opposite_words[aspect].search(text)
        )

    def regrade(
        self,
        text: str,
        aspect: str,
        level: int,
        rng: np.random.Generator,
        familiar: Collection[str] = frozenset(),
    ) -> str | None:
        """Return `text` with its statement about an aspect changed to `level`.

        Args:
          level: POOR or GOOD.
          familiar: words of the pool's rewrites; they are preferred.

        Returns:
          The changed text; None if it has no word to change for the aspect.
        """
        return self._regrade_level_word(text, aspect, level, rng, familiar) or self._swap_opposite(
            text, aspect, level
        )

    def _regrade_level_word(
        self,
        text: str,
        aspect: str,
        level: int,
        rng: np.random.Generator,
        familiar: Collection[str],
    ) -> str | None:
        """Replace a level word ("dim") near a word that names the aspect ("light")."""
        levels = self._levels[aspect]
        if not levels:
            return None
        others = _pattern([w for i, ws in enumerate(levels) if i != level for w in ws])
        for name in self._about[aspect].finditer(text):
            for word in others.finditer(text):
                between = text[min(word.end(), name.end()) : max(word.start(), name.start())]
                if word.span() == name.span() or len(between.split()) > MAX_WORDS_BETWEEN:
                    continue
                weights = [FAMILIAR_WEIGHT if w in familiar else 1.0 for w in levels[level]]
                new = str(rng.choice(levels[level], p=np.asarray(weights) / np.sum(weights)))
                return text[: word.start()] + new + text[word.end() :]
        return None

    def _swap_opposite(self, text: str, aspect: str, level: int) -> str | None:
        """Replace a word that names both aspect and level ("blurry")."""
        for poor, good in self._opposites[aspect]:
            old, new = (poor, good) if level == GOOD else (good, poor)
            match = re.search(rf"\b{re.escape(old)}\b", text, re.IGNORECASE)
            if match:
                return text[: match.start()] + new + text[match.end() :]
        return None
