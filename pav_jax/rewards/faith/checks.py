"""Checks of a rewrite's scene against the prompt's: bindings, numbers, roles and relations."""

import dataclasses
from collections.abc import Iterator

from pav_jax.rewards.faith import grammar
from pav_jax.rewards.faith.contrasts import Contrasts
from pav_jax.rewards.faith.items import Item
from pav_jax.rewards.faith.scene import ADJECTIVES, Event, Noun, Relation, Scene
from pav_jax.rewards.lemmas import related

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
    if first.concepts & (second.concepts | second.broader):
        return True
    return related(first.lemmas[-1], second.lemmas[-1])


def is_being(item: Item) -> bool:
    """Whether a word names a person or an animal, not a part of one."""
    if item.lemmas and item.lemmas[-1] in BODY:
        return False
    concepts = {concept for concept in item.broader | item.concepts if concept[1] not in NO_BEINGS}
    return any(category in ("person", "animal") or name in BEINGS for category, name in concepts)


class SceneChecks:
    """Compares the scene of a rewrite with the scene of its prompt."""

    def __init__(self, prompt: Scene, refined: Scene, contrasts: Contrasts):
        self.prompt = prompt
        self.refined = refined
        self.contrasts = contrasts
        self._same = {noun: _same_nouns(noun, refined.nouns) for noun in prompt.nouns}

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

    # ------------------------------------------------------------------------------------ counts

    def _count(self, noun: Noun) -> Iterator[Finding]:
        said = noun.number or (1.0 if noun.is_singular else 0.0)
        same = [other for other in self._same[noun] if not other.negated]
        explicit = bool(noun.number) and noun.number != grammar.MANY
        is_many = noun.number == grammar.MANY and not _is_plain_plural(noun)
        if not same or not (explicit or is_many or noun.is_singular):
            return
        text = f"{_number_text(said)} {noun.head.text}"
        counts = [other.number or (1.0 if other.is_singular else 0.0) for other in same]
        if not explicit and not is_many:  # "a cat": only "two cats", and no other cat, contradict
            wide = [other for other in self.refined.nouns if _is_same_noun(noun, other)]
            is_other = all(other.is_said_number and other.number >= 2 for other in wide)
            verdict = CONTRADICTED if is_other else MISSING
        else:
            verdict = _compare_counts(said, [count for count in counts if count])
        if verdict != MISSING:
            yield Finding("count", text, verdict)

    # -------------------------------------------------------------------------------- attributes

    def _attributes(self, noun: Noun) -> Iterator[Finding]:
        same = [other for other in self._same[noun] if not other.negated]
        if not same:
            return
        for attribute in noun.modifiers:
            if attribute.category not in ADJECTIVES or attribute.negated:
                continue
            verdict = self._binding(noun, attribute, same)
            if verdict:
                text = f"{attribute.text} {noun.head.text}"
                yield Finding("attribute", text, verdict)

    def _binding(self, noun: Noun, attribute: Item, same: list[Noun]) -> str:
        own = [word for other in same for word in other.modifiers]
        if any(is_same(attribute, word) for word in own):
            return KEPT
        if any(self.contrasts.are_opposed(attribute, word) for word in own):
            return CONTRADICTED
        if any(is_same(attribute, word) for other in same for word in other.of_parts):
            return KEPT
        for other in self.prompt.nouns:
            if other is noun or _is_same_noun(noun, other):
                continue
            theirs = [word for twin in self._same[other] for word in twin.modifiers]
            if not any(is_same(attribute, word) for word in theirs):
                continue
            rivals = [word for word in other.modifiers if word.category in ADJECTIVES]
            if any(is_same(attribute, word) for word in rivals):
                continue
            swapped = any(is_same(rival, word) for rival in rivals for word in own)
            if swapped or any(word.category == attribute.category for word in rivals):
                return CONTRADICTED
        return ""

    # ------------------------------------------------------------------------------------- roles

    def _roles(self, event: Event) -> Iterator[Finding]:
        for agent in event.agents:
            for other in event.others:
                if agent.head.lemmas == other.head.lemmas:
                    continue
                verdict = self._role(event, agent, other)
                if verdict:
                    text = f"{agent.head.text} {event.verb.text} {other.head.text}"
                    yield Finding("role", text, verdict)

    def _role(self, event: Event, agent: Noun, other: Noun) -> str:
        """Whether a rewrite keeps who does it to whom; "" where it does not say."""
        agents, others = set(self._same[agent]), set(self._same[other])
        if agents & others:
            return ""
        in_order = [e for e in self.refined.events if agents & {*e.agents} and others & {*e.others}]
        swapped = [e for e in self.refined.events if others & {*e.agents} and agents & {*e.others}]
        same_verb = [e for e in swapped if is_same(event.verb, e.verb)]
        if in_order and not same_verb:
            return KEPT
        if any(is_same(event.verb, e.verb) for e in in_order):
            return KEPT
        if same_verb or (swapped and is_being(agent.head) and is_being(other.head)):
            return CONTRADICTED
        return ""

    # --------------------------------------------------------------------------------- relations

    def _relation(self, relation: Relation) -> Iterator[Finding]:
        things = [other for other in self._same[relation.thing] if not other.negated]
        places = [other for other in self._same[relation.place] if not other.negated]
        if not things or not places:
            return
        kinds = {r.kind for r in self.refined.relations if r.thing in things and r.place in places}
        inverse = {
            r.kind for r in self.refined.relations if r.thing in places and r.place in things
        }
        sides = _sides(things, places) if relation.kind in ("left", "right") else set()
        opposite = grammar.OPPOSITE.get(relation.kind, set())
        text = f"{relation.thing.head.text} {relation.kind} {relation.place.head.text}"
        is_reversed = relation.kind in grammar.ONE_WAY and relation.kind in inverse
        if relation.kind in kinds | sides:
            yield Finding("relation", text, KEPT)
        elif is_reversed or opposite & (kinds | sides):
            yield Finding("relation", text, CONTRADICTED)


def _same_nouns(noun: Noun, others: list[Noun]) -> list[Noun]:
    """The nouns that name the same thing: by the same word if there is one, else by another."""
    by_word = [other for other in others if other.head.lemmas == noun.head.lemmas]
    return by_word or [other for other in others if _is_same_noun(noun, other)]


def _is_same_noun(noun: Noun, other: Noun) -> bool:
    return is_same(noun.head, other.head)


def _is_plain_plural(noun: Noun) -> bool:
    """Whether only the ending says that there is more than one."""
    return not noun.is_said_number


def _number_text(number: float) -> str:
    return "several" if number == grammar.MANY else f"{number:g}"


def _compare_counts(said: float, counts: list[float]) -> str:
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
