"""Checks of a rewrite's scene against the prompt's: bindings, numbers, roles and relations."""

import dataclasses
import itertools
from collections.abc import Callable, Hashable, Iterator
from typing import Any, TypeVar

from pav_jax.rewards.faith import grammar
from pav_jax.rewards.faith.contrasts import Contrasts
from pav_jax.rewards.faith.items import Item
from pav_jax.rewards.faith.scene import ADJECTIVES, Event, Noun, Relation, Scene
from pav_jax.rewards.lemmas import related

Lemmas = tuple[str, ...]
T = TypeVar("T")

KEPT, MISSING, CONTRADICTED = "kept", "missing", "contradicted"
BEINGS = frozenset({"person", "people", "animal", "man", "woman"})
NO_BEINGS = frozenset({"cud", "herd", "teddy bear", "monster"})

BODY = frozenset(
    "hand arm face finger eye leg foot head hair lip mouth shoulder voice he she his her him"  # noqa: SIM905
    " back skin body paw tail ear expression tooth limb trunk feather wing tongue nose beard jaw"
    " visage gaze brow whisker palm toe spine snout they them everyone other finger knee".split()
)


@dataclasses.dataclass(frozen=True)
class Finding:
    """What a check found about one thing that the prompt asks for.

    Attributes:
      kind: count, attribute, role or relation.
      text: what the prompt asks for.
      verdict: kept, missing or contradicted.
    """

    kind: str
    text: str
    verdict: str


def is_same(first: Item, second: Item) -> bool:
    """Whether the second word names what the first does, or a kind of it."""
    if first.lemmas == second.lemmas:
        return True
    named = first.concepts
    if not (named.isdisjoint(second.concepts) and named.isdisjoint(second.broader)):
        return True
    return related(first.lemmas[-1], second.lemmas[-1])


def is_being(item: Item) -> bool:
    """Whether a word names a person or an animal, not a part of one."""
    if item.lemmas and item.lemmas[-1] in BODY:
        return False
    concepts = {concept for concept in item.broader | item.concepts if concept[1] not in NO_BEINGS}
    return any(category in ("person", "animal") or name in BEINGS for category, name in concepts)


class SceneChecks:
    """Compares the scene of a rewrite with the scene of its prompt.

    What is found out about a word of the prompt holds wherever it stands, and is found out once.
    """

    def __init__(self, prompt: Scene, refined: Scene, contrasts: Contrasts):
        self.prompt = prompt
        self.contrasts = contrasts
        self._nouns: dict[Lemmas, list[Noun]] = {}  # of the rewrite, by their words
        for noun in refined.nouns:
            self._nouns.setdefault(noun.head.lemmas, []).append(noun)
        self._events = [
            (event.verb, _lemmas(event.agents), _lemmas(event.others)) for event in refined.events
        ]
        self._kinds: dict[tuple[Lemmas, Lemmas], set[str]] = {}  # of relations between two words
        for relation in refined.relations:
            if not relation.thing.negated and not relation.place.negated:
                key = (relation.thing.head.lemmas, relation.place.head.lemmas)
                self._kinds.setdefault(key, set()).add(relation.kind)
        self._known: dict[Hashable, Any] = {}

    def findings(self) -> Iterator[Finding]:
        """Everything that can be decided."""
        for noun in self.prompt.nouns:
            if noun.negated:
                continue
            yield from self._count(noun)
            yield from self._attributes(noun)
        for event in self.prompt.events:
            yield from self._roles(event)
        for relation in self.prompt.relations:
            yield from self._relation(relation)

    # ------------------------------------------------------------------- what a word means there

    def _once(self, function: Callable[..., T], *args: Item | str) -> T:
        """What a function returns for words, computed once for equal ones."""
        key = (function, *(arg if isinstance(arg, str) else arg.lemmas for arg in args))
        if key not in self._known:
            self._known[key] = function(*args)
        return self._known[key]

    def _kinds_of(self, word: Item) -> list[Lemmas]:
        """The words of the rewrite's nouns that name what a word does, or a kind of it."""
        heads = ((lemmas, nouns[0].head) for lemmas, nouns in self._nouns.items())
        return [lemmas for lemmas, head in heads if is_same(word, head)]

    def _names(self, word: Item) -> list[Lemmas]:
        """The words of the rewrite for a thing: the same word if it has it, else others."""
        return [word.lemmas] if word.lemmas in self._nouns else self._once(self._kinds_of, word)

    def _same(self, word: Item) -> list[Noun]:
        """The nouns of the rewrite that name a thing and are not denied."""
        nouns = (noun for name in self._names(word) for noun in self._nouns[name])
        return [noun for noun in nouns if not noun.negated]

    def _said_of(self, word: Item) -> list[Item]:
        """What the rewrite says of a thing, each word once."""
        nouns = (noun for name in self._names(word) for noun in self._nouns[name])
        return list({said.lemmas: said for noun in nouns for said in noun.modifiers}.values())

    def _is_said_of(self, attribute: Item, word: Item) -> bool:
        return any(is_same(attribute, said) for said in self._once(self._said_of, word))

    # ------------------------------------------------------------------------------------ counts

    def _count(self, noun: Noun) -> Iterator[Finding]:
        said = noun.number or (1.0 if noun.is_singular else 0.0)
        explicit = bool(noun.number) and noun.number != grammar.MANY
        is_many = noun.number == grammar.MANY and not _is_plain_plural(noun)
        counts = self._once(self._counts, noun.head)
        if counts is None or not (explicit or is_many or noun.is_singular):
            return
        text = f"{_number_text(said)} {noun.head.text}"
        if not explicit and not is_many:  # "a cat": only "two cats", and no other cat, contradict
            verdict = CONTRADICTED if self._once(self._are_several, noun.head) else MISSING
        else:
            verdict = _compare_counts(said, counts)
        if verdict != MISSING or explicit:
            yield Finding("count", text, verdict)

    def _counts(self, word: Item) -> set[float] | None:
        """The numbers that the rewrite gives of a thing; None where it does not have it."""
        same = self._once(self._same, word)
        counts = {other.number or (1.0 if other.is_singular else 0.0) for other in same}
        return counts - {0.0} if same else None

    def _are_several(self, word: Item) -> bool:
        """Whether the rewrite says of all things of a kind that there are two or more."""
        nouns = [noun for name in self._once(self._kinds_of, word) for noun in self._nouns[name]]
        return all(noun.is_said_number and noun.number >= 2 for noun in nouns)

    # -------------------------------------------------------------------------------- attributes

    def _attributes(self, noun: Noun) -> Iterator[Finding]:
        if not self._once(self._same, noun.head):
            return
        for attribute in noun.modifiers:
            if attribute.category not in ADJECTIVES or attribute.negated:
                continue
            verdict = self._once(self._binding, noun.head, attribute)
            if verdict:
                text = f"{attribute.text} {noun.head.text}"
                yield Finding("attribute", text, verdict)

    def _binding(self, word: Item, attribute: Item) -> str:
        """Whether a thing of the rewrite has an attribute; "" where it does not say."""
        if self._once(self._is_said_of, attribute, word):
            return KEPT
        own = [said for noun in self._once(self._same, word) for said in noun.modifiers]
        if any(self.contrasts.are_opposed(attribute, said) for said in own):
            return CONTRADICTED
        parts = (said for noun in self._once(self._same, word) for said in noun.of_parts)
        if any(is_same(attribute, said) for said in parts):
            return KEPT
        return CONTRADICTED if self._is_given_away(word, attribute) else ""

    def _is_given_away(self, word: Item, attribute: Item) -> bool:
        """Whether another thing of the prompt has the attribute instead of its own."""
        for other in self.prompt.nouns:
            if not self._once(self._is_said_of, attribute, other.head):
                continue
            if self._once(is_same, word, other.head):
                continue
            rivals = [said for said in other.modifiers if said.category in ADJECTIVES]
            if any(self._once(is_same, attribute, rival) for rival in rivals):
                continue
            if any(rival.category == attribute.category for rival in rivals):
                return True
            if any(self._once(self._is_said_of, rival, word) for rival in rivals):
                return True
        return False

    # ------------------------------------------------------------------------------------- roles

    def _roles(self, event: Event) -> Iterator[Finding]:
        for agent in event.agents:
            for other in event.others:
                if agent.head.lemmas == other.head.lemmas:
                    continue
                verdict = self._once(self._role, event.verb, agent.head, other.head)
                if verdict:
                    text = f"{agent.head.text} {event.verb.text} {other.head.text}"
                    yield Finding("role", text, verdict)

    def _role(self, verb: Item, agent: Item, other: Item) -> str:
        """Whether a rewrite keeps who does it to whom; "" where it does not say."""
        agents, others = set(self._names(agent)), set(self._names(other))
        if agents & others:
            return ""
        in_order = [v for v, first, second in self._events if agents & first and others & second]
        swapped = [v for v, first, second in self._events if others & first and agents & second]
        is_same_verb = any(is_same(verb, v) for v in swapped)
        if in_order and not is_same_verb:
            return KEPT
        if any(is_same(verb, v) for v in in_order):
            return KEPT
        if is_same_verb or (swapped and is_being(agent) and is_being(other)):
            return CONTRADICTED
        return ""

    # --------------------------------------------------------------------------------- relations

    def _relation(self, relation: Relation) -> Iterator[Finding]:
        thing, place = relation.thing.head, relation.place.head
        if verdict := self._once(self._place, thing, relation.kind, place):
            yield Finding("relation", f"{thing.text} {relation.kind} {place.text}", verdict)

    def _place(self, thing: Item, kind: str, place: Item) -> str:
        """Whether a thing is where the prompt says; "" where the rewrite does not say."""
        things, places = self._once(self._same, thing), self._once(self._same, place)
        if not things or not places:
            return ""
        kinds = self._relations(thing, place)
        sides = _sides(things, places) if kind in ("left", "right") else set()
        opposite = grammar.OPPOSITE.get(kind, set())
        if kind in kinds | sides:
            return KEPT
        is_reversed = kind in grammar.ONE_WAY and kind in self._relations(place, thing)
        return CONTRADICTED if is_reversed or opposite & (kinds | sides) else ""

    def _relations(self, thing: Item, place: Item) -> set[str]:
        """The relations of a thing to a place in the rewrite."""
        pairs = itertools.product(self._names(thing), self._names(place))
        return set().union(*(self._kinds.get(pair, ()) for pair in pairs))


def _lemmas(nouns: list[Noun]) -> set[Lemmas]:
    return {noun.head.lemmas for noun in nouns}


def _is_plain_plural(noun: Noun) -> bool:
    """Whether only the ending says that there is more than one."""
    return not noun.is_said_number


def _number_text(number: float) -> str:
    return "several" if number == grammar.MANY else f"{number:g}"


def _compare_counts(said: float, counts: set[float]) -> str:
    """The verdict on a number of things; missing where it cannot be decided."""
    if said in counts:
        return KEPT
    if not counts:
        return MISSING
    if said == grammar.MANY:
        return CONTRADICTED if all(count == 1 for count in counts) else KEPT
    if said > 1 and all(count == grammar.MANY for count in counts):
        return MISSING
    return CONTRADICTED


def _sides(things: list[Noun], places: list[Noun]) -> set[str]:
    """On which side of the places the things are, from their sides of the picture."""
    flipped = {"left": "right", "right": "left"}
    sides = {noun.side for noun in things if noun.side}
    return sides | {flipped[noun.side] for noun in places if noun.side}
