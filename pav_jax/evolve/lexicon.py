"""Texts as clauses, and general English about how a video looks (`phrases.json`)."""

import dataclasses
import json
import re
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from pav_jax.errors import BadInput

PHRASES = Path(__file__).parent / "phrases.json"

POOR, GOOD = 0, 2
NEAR = 4  # a level word belongs to an aspect's word at most this many words away

_BREAK = re.compile(
    r"(\s*(?:[.,;!?:/]+(?=\s|$)(?:\s+(?:and|while)(?=\s))?|\s/(?=\s)|\sand(?=\s)|\swhile(?=\s))\s*)"
)
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_STOP = frozenset(
    [
        "a",
        "an",
        "the",
        "this",
        "that",
        "these",
        "those",
        "some",
        "any",
        "its",
        "his",
        "her",
        "their",
        "our",
        "my",
        "your",
        "it",
        "he",
        "she",
        "they",
        "we",
        "i",
        "you",
        "is",
        "are",
        "was",
        "were",
        "be",
        "been",
        "being",
        "am",
        "do",
        "does",
        "did",
        "has",
        "have",
        "had",
        "will",
        "would",
        "can",
        "could",
        "may",
        "of",
        "in",
        "on",
        "at",
        "by",
        "to",
        "from",
        "with",
        "without",
        "for",
        "and",
        "or",
        "but",
        "as",
        "while",
        "then",
        "so",
        "very",
        "into",
        "onto",
        "over",
        "under",
        "up",
        "down",
        "out",
        "off",
        "near",
        "there",
        "here",
        "one",
        "who",
        "which",
        "what",
        "where",
        "when",
        "not",
        "no",
        "it's",
        "video",
        "clip",
        "footage",
        "film",
        "shot",
        "scene",
    ]
)
_ENDINGS = ("ings", "ing", "ies", "ied", "es", "ed", "s", "e", "y")


@dataclasses.dataclass(frozen=True)
class Clause:
    """A piece of text and what follows it: punctuation or "and", with spaces."""

    text: str
    end: str

    @property
    def norm(self) -> str:
        return " ".join(self.text.lower().split())


def split(text: str) -> list[Clause]:
    """Clauses whose `join` is `text` again."""
    pieces = _BREAK.split(text)
    pairs = zip(pieces[::2], [*pieces[1::2], ""], strict=True)
    return [Clause(body, end) for body, end in pairs if body or end]


def join(clauses: Sequence[Clause]) -> str:
    return "".join(c.text + c.end for c in clauses)


def words(text: str) -> list[str]:
    return [w.lower() for w in _WORD.findall(text)]


def stem(word: str) -> str:
    """A crude stem, enough to see that "bounces" and "bouncing" are the same word."""
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            word = word[: -len(ending)]
            break
    return word[:-1] if len(word) > 3 and word[-1] == word[-2] else word


def content(text: str) -> frozenset[str]:
    """Stems of the words that carry meaning."""
    return frozenset(stem(w) for w in words(text) if w not in _STOP)


def _pattern(phrases: Collection[str]) -> re.Pattern[str]:
    longest_first = sorted(phrases, key=lambda p: (-len(p), p))
    either = r"\b(?:" + "|".join(map(re.escape, longest_first)) + r")\b"
    return re.compile(either if phrases else r"(?!)", re.IGNORECASE)


class Lexicon:
    """Aspects of a video's look, the words that name them, and phrases from poor to good for
    each."""

    def __init__(self, path: str | Path | None = None):
        path = Path(path or PHRASES)
        try:
            aspects = json.loads(path.read_text(encoding="utf-8"))["aspects"]
            self.phrases: dict[str, list[str]] = {a: list(v["phrases"]) for a, v in aspects.items()}
            self._levels = {a: v["levels"] for a, v in aspects.items()}
            self._alone = {a: [tuple(pair) for pair in v["alone"]] for a, v in aspects.items()}
            self._about = {a: _pattern(v["about"]) for a, v in aspects.items()}
            named = [w for v in aspects.values() for w in v["about"]]
        except OSError as error:
            raise BadInput(f"{path}: the phrase list cannot be read ({error.strerror})") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInput(
                f"{path}: not a phrase list ({error}); see {PHRASES.name} for the form"
            ) from error
        self._pairs = {
            a: _pattern([p for pair in pairs for p in pair]) for a, pairs in self._alone.items()
        }
        graded = [w for levels in self._levels.values() for level in levels for w in level]
        single = [p for pairs in self._alone.values() for pair in pairs for p in pair]
        listed = [p for phrases in self.phrases.values() for p in phrases]
        self.stems = frozenset().union(*(content(t) for t in [*named, *graded, *single, *listed]))

    @property
    def aspects(self) -> tuple[str, ...]:
        return tuple(self.phrases)

    def about(self, text: str) -> frozenset[str]:
        """The aspects that `text` speaks of."""
        return frozenset(
            a for a in self.phrases if self._about[a].search(text) or self._pairs[a].search(text)
        )

    def regrade(
        self,
        text: str,
        aspect: str,
        level: int,
        rng: np.random.Generator,
        familiar: Collection[str] = frozenset(),
    ) -> str | None:
        """`text` with what it says of `aspect` put at `level` (POOR or GOOD); None where nothing
        can be swapped.

        `familiar` words are preferred: the rewrites of the pool use them.
        """
        levels = self._levels[aspect]
        others = _pattern([w for i, ws in enumerate(levels) if i != level for w in ws])
        for name in self._about[aspect].finditer(text) if levels else ():
            for found in others.finditer(text):
                between = text[min(found.end(), name.end()) : max(found.start(), name.start())]
                if found.span() != name.span() and len(between.split()) <= NEAR:
                    weight = np.asarray([4.0 if w in familiar else 1.0 for w in levels[level]])
                    new = str(rng.choice(levels[level], p=weight / weight.sum()))
                    return text[: found.start()] + new + text[found.end() :]
        for poor, good in self._alone[aspect]:
            old, new = (poor, good) if level == GOOD else (good, poor)
            if found := re.search(rf"\b{re.escape(old)}\b", text, re.IGNORECASE):
                return text[: found.start()] + new + text[found.end() :]
        return None
