"""The judgement of a rewrite: unit by unit kept, missing, contradicted, and what was added."""

import dataclasses
import functools
import math
import re

from pav_jax.rewards.faith import grammar
from pav_jax.rewards.faith.checks import (
    CONTRADICTED,
    KEPT,
    MISSING,
    Finding,
    SceneChecks,
    is_being,
    is_same,
)
from pav_jax.rewards.faith.contrasts import Contrasts
from pav_jax.rewards.faith.items import BOTH, Item, quotes_in, read_items
from pav_jax.rewards.faith.lexicon import GENERIC_WEIGHT, Lexicon, Mentions, Unit
from pav_jax.rewards.faith.readable import is_readable
from pav_jax.rewards.faith.scene import read_scene
from pav_jax.rewards.faith.typos import find_typo
from pav_jax.rewards.lemmas import words as words_of

MAX_CHARACTERS = 4000  # of a text: a longer one has no score, so that a comparison takes under 1 s
CONTRADICTION = 0.5  # factor of the first contradiction
FURTHER_CONTRADICTION = 0.8  # factor of each further one
ADDED_BEING = 0.98  # factor where beings join those of the prompt
UNSAID_NEGATION = 0.8  # credit of "no cars" where the rewrite says nothing of cars
AFFIXED = re.compile(r"less\b|\bun", re.IGNORECASE)
GENDERS = frozenset({"man", "woman"})
PERSONS = GENDERS | {"person", "people"}
ANYBODY = PERSONS | {"figure", "individual", "someone", "gentleman", "lady", "boy", "girl"}
QUOTE_WEIGHT = 2.0
SAYING = frozenset("say read word text letter title label caption write".split())  # noqa: SIM905
FILMING = frozenset("shot view angle footage video clip camera perspective film".split())  # noqa: SIM905
OTHER_CASE = 0.5  # credit of a quoted text with other capitals


@dataclasses.dataclass(frozen=True)
class JudgedUnit:
    """One thing that the prompt asks for, and what became of it.

    Attributes:
      text: as the user wrote it.
      category: such as colour, count, role, relation, negation or quote.
      verdict: kept, missing or contradicted.
      credit: its share of the score's weight, in [0, 1].
      weight: in the score.
    """

    text: str
    category: str
    verdict: str
    credit: float
    weight: float


@dataclasses.dataclass(frozen=True)
class Judgement:
    """How faithful a rewrite is.

    Attributes:
      score: in [0, 1]; NaN for a text that cannot be read.
      units: of the prompt, judged.
      added: people and animals that only the rewrite has.
    """

    score: float
    units: tuple[JudgedUnit, ...] = ()
    added: tuple[str, ...] = ()

    @property
    def kept(self) -> tuple[str, ...]:  # vocabulary: ignore
        """What the rewrite keeps."""
        return self._texts(KEPT)

    @property
    def missing(self) -> tuple[str, ...]:
        """What the rewrite does not say."""
        return self._texts(MISSING)

    @property
    def contradicted(self) -> tuple[str, ...]:
        """What the rewrite says otherwise."""
        return self._texts(CONTRADICTED)

    def _texts(self, verdict: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(unit.text for unit in self.units if unit.verdict == verdict))

    def summary(self) -> str:
        """One line."""
        parts = [f"{name}: {', '.join(getattr(self, name))}" for name in (KEPT, MISSING)]
        parts += [f"contradicted: {', '.join(self.contradicted)}; added: {', '.join(self.added)}"]
        return f"{self.score:.2f} " + "; ".join(parts)


UNREADABLE = Judgement(math.nan)


def judge(prompt: str, refined: str, lexicon: Lexicon) -> Judgement:
    """Judge a rewrite by its prompt.

    A text of over 4,000 characters (`MAX_CHARACTERS`) is too long to compare and has no score.

    Args:
      prompt: what the user typed, in English.
      refined: the rewrite.
      lexicon: concepts of words.
    """
    if max(len(prompt), len(refined)) > MAX_CHARACTERS:
        return UNREADABLE
    if not is_readable(prompt, lexicon) or not is_readable(refined, lexicon, may_be_empty=True):
        return UNREADABLE
    return _Judge(prompt, refined, lexicon).judge()


class _Text:
    """One text, read once."""

    def __init__(self, text: str, other: str, lexicon: Lexicon):
        known_words = lexicon.vocabulary | set(lexicon.lemmatise(other))
        self.items = read_items(text, lexicon, known_words.__contains__)
        self.quotes = quotes_in(text)
        self.scene = read_scene(self.items)
        words = [
            item for item in self.items if item.role not in ("break", "quote") and item != BOTH
        ]
        self.positive = " ".join(item.text for item in words if not item.negated)
        absent = [item.text for item in words if item.negated]
        plain = f" {' '.join(item.text for item in words)} "
        absent += [thing for word, thing in grammar.ABSENCE.items() if f" {word} " in plain]
        self.negative = " ".join(absent)
        self.all = plain


def _read(text: str, other: str, lexicon: Lexicon) -> _Text:
    """Read a text; the other text only tells which words there are to read "leafless" by."""
    return _read_once(text, other if AFFIXED.search(text) else "", lexicon)


@functools.lru_cache(maxsize=2048)
def _read_once(text: str, other: str, lexicon: Lexicon) -> _Text:
    return _Text(text, other, lexicon)


class _Judge:
    def __init__(self, prompt: str, refined: str, lexicon: Lexicon):
        self.lexicon = lexicon
        self.contrasts = _contrasts(lexicon)
        self.prompt = _read(prompt, refined, lexicon)
        self.refined = _read(refined, prompt, lexicon)
        self.refined_text = refined
        self.quoted = self._quoted(prompt)
        self.said = self._said()
        self.has_camera = any(category == "camera" for category, _ in self.said.concepts)
        self.denied = lexicon.mentions(self.refined.negative)

    def judge(self) -> Judgement:
        checks = SceneChecks(self.prompt.scene, self.refined.scene, self.contrasts)
        findings = list(checks.findings())
        counts = [finding for finding in findings if finding.kind == "count"]
        units = [self._unit(unit, counts) for unit in self.lexicon.units(self.prompt.positive)]
        added = self._added()
        units += [self._negated(unit, added) for unit in self._negations()]
        units += [self._quote(text) for text in self.prompt.quotes]
        if not units:
            return UNREADABLE
        units += [_as_unit(finding) for finding in findings if _is_counted(finding)]
        added_texts = tuple(item.text for item in added)
        units += self._exclusive(added_texts)
        has_being = any(is_being(noun.head) for noun in self.prompt.scene.nouns)
        factor = ADDED_BEING if added and has_being else 1.0
        return Judgement(factor * _score(units), tuple(units), added_texts)

    # ------------------------------------------------------------------------------------- units

    def _said(self) -> Mentions:
        """What the rewrite mentions as there; camera words also where they contain a "not"."""
        said = self.lexicon.mentions(f"{self.refined.positive} {self.quoted}")
        if not self.refined.negative:
            return said
        full = self.lexicon.mentions(self.refined.all)
        camera = {concept for concept in full.concepts if concept[0] == "camera"}
        return dataclasses.replace(said, concepts=said.concepts | camera)

    def _quoted(self, prompt: str) -> str:
        """Words that the rewrite quotes and the prompt has without marks: "a man says hello"."""
        typed = words_of(prompt)
        starts = [
            i + 1 for i, word in enumerate(typed) if self.lexicon.lemmatise.lemma(word) in SAYING
        ]
        quotes = map(words_of, self.refined.quotes)
        same = (q for q in quotes if any(typed[i : i + len(q)] == q for i in starts))
        return " ".join(word for quote in same for word in quote)

    def _unit(self, unit: Unit, counts: list[Finding]) -> JudgedUnit:
        """The verdict on a word or phrase that the prompt asks for."""
        if unit.category == "count" and (bound := self._bound_count(unit, counts)):
            return dataclasses.replace(_as_unit(bound), text=unit.text, weight=unit.weight)
        credit = self.lexicon.credit(unit, self.said)
        if not credit and len(unit.lemmas) > 1:
            credit = self._credit_of_words(unit)
        has_quote = bool(self.prompt.quotes or self.quoted)
        if has_quote and set(unit.lemmas) <= SAYING:  # what is said is judged instead
            credit = 1.0
        if self.has_camera and set(unit.lemmas) <= FILMING:
            credit = 1.0
        if not credit and find_typo(unit, self.refined.positive, self.lexicon):
            credit = 1.0
        is_other = unit.category == "camera" and not unit.concepts & self.said.concepts
        is_denied = (not credit or is_other) and self._is_denied(unit)
        if is_denied or self._is_undone(unit):
            return JudgedUnit(unit.text, unit.category, CONTRADICTED, 0.0, unit.weight)
        verdict = KEPT if credit == 1 else MISSING
        return JudgedUnit(unit.text, unit.category, verdict, credit, unit.weight)

    def _credit_of_words(self, unit: Unit) -> float:
        """The credit of a phrase by its words: "strums her guitar" keeps "playing guitar"."""
        if unit.category == "camera":
            return 0.0
        parts = [part for word in unit.text.split() for part in self.lexicon.units(word)]
        return min((self.lexicon.credit(part, self.said) for part in parts), default=0.0)

    def _bound_count(self, unit: Unit, counts: list[Finding]) -> Finding | None:
        """The finding on the number that a unit names."""
        numbers = {f"{grammar.NUMBERS[word]:g}" for word in unit.lemmas if word in grammar.NUMBERS}
        numbers |= {"several"} if set(unit.lemmas) & grammar.MANY_WORDS else set()
        own = [count for count in counts if count.text.split(" ", 1)[0] in numbers]
        return next((f for f in own if f.verdict == CONTRADICTED), own[0] if own else None)

    def _is_denied(self, unit: Unit) -> bool:
        """Whether the rewrite says the opposite, or that the thing is absent."""
        if self.denied.lemmas and self.lexicon.credit(unit, self.denied) == 1:
            return True
        if unit.category == "look" and unit.text.endswith("ing"):
            return False  # "wearing" is no form of "worn"
        names = frozenset({" ".join(unit.lemmas)})
        opposites = self.contrasts.opposites(names, unit.concepts)
        said = {name for _, name in self.said.concepts} | self.said.lemmas
        return bool(opposites & said)

    def _is_undone(self, unit: Unit) -> bool:
        """Whether only the rewrite says what no picture is at once: rain under a clear blue sky."""
        excluded = self.contrasts.excluded(frozenset({" ".join(unit.lemmas)}), unit.concepts)
        said = f" {self.refined.positive} "
        return any(f" {word} " in said and f" {word} " not in self.prompt.all for word in excluded)

    # --------------------------------------------------------------------------------- negations

    def _negations(self) -> list[Unit]:
        """What the prompt says is absent."""
        return [unit for unit in self.lexicon.units(" ".join(self._absent()))]

    def _absent(self) -> list[str]:
        absent = [item.text for item in self.prompt.items if item.negated and item.role == "word"]
        people = {"nobody", "none"} & {item.text for item in self.prompt.items}
        return [*absent, *(["people"] if people else [])]

    def _negated(self, unit: Unit, added: list[Item]) -> JudgedUnit:
        """The verdict on something that must be absent."""
        text = f"no {unit.text}"
        if {name for _, name in unit.concepts} & PERSONS and any(map(_is_person, added)):
            verdict, credit = CONTRADICTED, 0.0
        elif self.lexicon.credit(unit, self.denied) == 1:
            verdict, credit = KEPT, 1.0
        elif self.lexicon.credit(unit, self.said) == 1:
            verdict, credit = CONTRADICTED, 0.0
        else:
            verdict, credit = MISSING, UNSAID_NEGATION
        return JudgedUnit(text, "negation", verdict, credit, 1.0)

    # ------------------------------------------------------------------------- quotes, additions

    def _quote(self, text: str) -> JudgedUnit:
        """The verdict on a quoted text."""
        if text in self.refined_text:
            return JudgedUnit(f'"{text}"', "quote", KEPT, 1.0, QUOTE_WEIGHT)
        if text.lower() in self.refined_text.lower():
            return JudgedUnit(f'"{text}"', "quote", MISSING, OTHER_CASE, QUOTE_WEIGHT)
        verdict = CONTRADICTED if self.refined.quotes else MISSING
        return JudgedUnit(f'"{text}"', "quote", verdict, 0.0, QUOTE_WEIGHT)

    def _added(self) -> list[Item]:
        """People and animals that only the rewrite has, each once."""
        nouns = [noun for noun in self.prompt.scene.nouns if not noun.negated]
        prompt_heads = list({noun.head.text: noun.head for noun in nouns}.values())
        shown = [noun for noun in self.refined.scene.nouns if not noun.negated]
        heads = {noun.head.text: noun.head for noun in shown}.values()
        beings = [head for head in heads if is_being(head)]
        return [head for head in beings if not any(_may_be(own, head) for own in prompt_heads)]

    def _exclusive(self, added: tuple[str, ...]) -> list[JudgedUnit]:
        """A contradiction where the prompt has "alone" or "empty" and the rewrite adds beings."""
        typed = [item.value or item.text for item in self.prompt.items]
        words = [word for word in typed if word in grammar.EXCLUSIVE]
        if not words or not added:
            return []
        text = f"{words[0]} (added: {', '.join(added)})"
        return [JudgedUnit(text, "extra", CONTRADICTED, 0.0, GENERIC_WEIGHT)]


@functools.lru_cache(maxsize=8)
def _contrasts(lexicon: Lexicon) -> Contrasts:
    return Contrasts(lexicon)


def _may_be(head: Item, other: Item) -> bool:
    """Whether a noun of the rewrite may be the same being as one of the prompt."""
    if is_same(head, other) or is_same(other, head):
        return True
    theirs = _names(other)
    own = _names(head)
    if not own & PERSONS or other.lemmas[-1] not in ANYBODY:
        return False
    genders = own & GENDERS
    return not genders or not theirs & GENDERS or bool(genders & theirs)


def _is_person(item: Item) -> bool:
    return any(category == "person" for category, _ in item.concepts | item.broader)


def _names(item: Item) -> set[str]:
    """Its words and the concepts that it names or is a kind of."""
    return {*item.text.split(), *(name for _, name in item.concepts | item.broader)}


def _is_counted(finding: Finding) -> bool:
    """Whether a finding is a unit of its own: a count is one already where it is a word."""
    return finding.verdict == CONTRADICTED or finding.kind in ("role", "relation")


def _as_unit(finding: Finding) -> JudgedUnit:
    credit = 1.0 if finding.verdict == KEPT else 0.0
    return JudgedUnit(finding.text, finding.kind, finding.verdict, credit, 1.0)


def _score(units: list[JudgedUnit]) -> float:
    """The weighted share of units, times a factor for contradictions."""
    total = sum(unit.weight for unit in units)
    share = sum(unit.weight * unit.credit for unit in units) / total
    contradictions = sum(unit.verdict == CONTRADICTED for unit in units)
    if contradictions:
        share *= CONTRADICTION * FURTHER_CONTRADICTION ** (contradictions - 1)
    return share
