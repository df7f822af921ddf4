"""What a text describes: its nouns with attributes and numbers, who does what, what is where."""

import dataclasses

from pav_jax.rewards.faith import grammar
from pav_jax.rewards.faith.items import Item

ADJECTIVES = frozenset({"colour", "size", "material", "look", "light"})
THINGS = frozenset({"person", "animal", "thing", "place", "kind"})
PLURALS = frozenset("people children men women mice geese police wolves".split())  # noqa: SIM905
SURFACES = frozenset(
    "fur coat hair skin feather plumage wool fleece mane surface paint exterior body colour".split()  # noqa: SIM905
)
AFTER_VERB = frozenset({"determiner", "pronoun", "number", "preposition", "adverb", "side"})
LEADING = frozenset({"determiner", "negation", "number", "adverb"})
MAX_EARLIER = 20  # nouns of a sentence that a place may be the place of
ADJECTIVE_ENDINGS = ("y", "ous", "ful", "less", "al", "ic", "ish", "ive", "ed", "ing", "en")


@dataclasses.dataclass(eq=False)
class Noun:
    """A thing.

    Attributes:
      head: its noun.
      modifiers: words that stand before the noun or are said of it.
      of_parts: words said of its parts, as in "a cat with white paws".
      number: of things; 0: not said; MANY: more than one.
      is_singular: whether "a" or "one" stands before it.
      is_said_number: whether a word says the number, not the ending alone.
      preposition: before it; "" without one.
      relation: the spatial relation of the preposition.
      sentence: its number.
      side: left or right, where the text says on which side of the picture it is.
    """

    head: Item
    modifiers: list[Item] = dataclasses.field(default_factory=list)
    of_parts: list[Item] = dataclasses.field(default_factory=list)
    number: float = 0.0
    is_singular: bool = False
    is_said_number: bool = False
    preposition: str = ""
    relation: str = ""
    sentence: int = 0
    side: str = ""
    owner: "Noun | None" = None

    @property
    def negated(self) -> bool:
        """Whether the text says that it is absent."""
        return self.head.negated


@dataclasses.dataclass(eq=False)
class Event:
    """An action: its verb, who does it, and the other things of its clause."""

    verb: Item
    agents: list[Noun]
    others: list[Noun]
    is_passive: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class Relation:
    """Where a thing is with respect to another."""

    thing: Noun
    kind: str
    place: Noun


@dataclasses.dataclass
class Scene:
    """All that a text describes."""

    nouns: list[Noun] = dataclasses.field(default_factory=list)
    events: list[Event] = dataclasses.field(default_factory=list)
    relations: list[Relation] = dataclasses.field(default_factory=list)


def read_scene(items: list[Item]) -> Scene:
    """Read nouns, events and relations from the words of a text."""
    return _Reader(items).read()


class _Reader:
    """One pass over the items of a text."""

    def __init__(self, items: list[Item]):
        self.items = items
        self.scene = Scene()
        self.position = 0
        self.sentence = 0
        self.clause: list[Noun] = []  # nouns of the clause
        self.said: list[Noun] = []  # nouns of the sentence
        self.fronted: tuple[str, Noun] | None = None  # "beneath a table rests ..."
        self.side = ""
        self.preposition: Item | None = None
        self.event: Event | None = None  # takes the nouns that follow
        self.last_event: Event | None = None
        self.owner: Noun | None = None

    def read(self) -> Scene:
        while self.position < len(self.items):
            item = self.items[self.position]
            step = getattr(self, f"_read_{item.role}", None)
            if item.role in LEADING or item.role == "word":
                self._read_phrase()
            else:
                if step:
                    step(item)
                self.position += 1
        return self.scene

    # ------------------------------------------------------------------ marks and function words

    def _read_break(self, item: Item) -> None:
        self.event = None
        self.preposition = None
        if item.text in grammar.SENTENCE_ENDS:
            self.sentence += 1
            self.said = []
            self.last_event = None
        if item.text in grammar.SENTENCE_ENDS or item.text in ";:—–":
            self.clause = []
            self.fronted = None
            self.side = ""

    def _read_subordinator(self, item: Item) -> None:
        del item
        self.event = None
        self.clause = []
        self.side = ""

    def _read_conjunction(self, item: Item) -> None:
        del item
        self.preposition = None

    def _read_preposition(self, item: Item) -> None:
        self.preposition = item

    def _read_side(self, item: Item) -> None:
        last = self.clause[-1] if self.clause else None
        is_after = self._role(1) == "break" or self.position + 1 >= len(self.items)
        if last and is_after and not last.side and self._previous_role() != "break":
            last.side = item.value
        else:
            self.side = item.value

    def _read_relative(self, item: Item) -> None:
        self.event = None
        last = self.clause[-1] if self.clause else None
        self.owner = last if item.text == "whose" else None
        self.clause = [last] if last and item.text != "whose" else []

    # ------------------------------------------------------------------------------ noun phrases

    def _read_phrase(self) -> None:
        """Read a noun phrase, or a verb."""
        start = self.position
        while self._role() in LEADING:
            self.position += 1
        leading = self.items[start : self.position]
        words: list[Item] = []
        singular = any(i.text in grammar.SINGULAR for i in leading)
        is_bare = not any(item.role in ("determiner", "number") for item in leading)
        while self._role() == "word" and not self._is_verb(words, singular, is_bare):
            words.append(self.items[self.position])
            self.position += 1
            self._skip_comma(words, is_bare)
        if words and not (is_bare and self._read_predicate(words, start)):
            self._add_noun(words, leading, singular)
        if self._role() == "word":  # what ended the phrase
            self._read_verb(self.items[self.position])
            self.position += 1

    def _skip_comma(self, words: list[Item], is_bare: bool) -> None:
        """Go on within "a sleek, white yacht"."""
        is_list = not is_bare and all(map(_is_adjective, words)) and self._role(1) == "word"
        if is_list and self._role() == "break" and self.items[self.position].text == ",":
            self.position += 1

    def _is_verb(self, words: list[Item], singular: bool, is_bare: bool) -> bool:
        """Whether the word at the position is a verb, after the words of the phrase so far."""
        item = self.items[self.position]
        if len(item.lemmas) > 1:
            is_first = not words and is_bare and self._previous_role() not in ("preposition", "")
            is_after = bool(words) and not _is_adjective(words[-1])
            return item.category == "motion" and (is_first or is_after)
        is_inflected = item.lemmas != (item.text,)
        following = self._role(1)
        if not words:
            return is_bare and self._starts_with_verb(item, is_inflected, following)
        if _is_adjective(words[-1]):
            return False
        if item.text.endswith("ing") and is_inflected:
            return True
        if (item.text.endswith("ed") and is_inflected) or item.text in grammar.IRREGULAR_VERBS:
            return following != "word"
        if _is_plural(item):
            return singular or _is_plural(words[-1]) or following in ("determiner", "pronoun")
        is_action = item.category == "motion" or following in AFTER_VERB
        return _is_plural(words[-1]) and is_action

    def _starts_with_verb(self, item: Item, is_inflected: bool, following: str) -> bool:
        """Whether a phrase without a determiner begins with a verb."""
        before = self._previous_role()
        is_owned = before == "relative" and self.items[self.position - 1].text == "whose"
        if is_owned or before in ("preposition", "", "determiner"):
            return item.text.endswith("ing") and following in ("determiner", "pronoun")
        if item.category in ADJECTIVES and following in ("word", "break", "conjunction", ""):
            return False
        if item.text.endswith("ing"):
            return is_inflected and (following != "word" or before == "aux")
        is_past = item.text.endswith("ed") or item.text in grammar.IRREGULAR_VERBS
        if is_past:
            return before in ("aux", "relative", "adverb", "pronoun", "word") or (
                following in AFTER_VERB and item.category not in ADJECTIVES
            )
        if is_inflected and item.text.endswith("s"):
            is_object = following in ("determiner", "pronoun", "number")
            return is_object or before in ("relative", "pronoun") or item.category == "motion"
        if before == "aux" and self.items[self.position - 1].text in grammar.POSSESSION:
            return False
        return before in ("pronoun", "aux", "relative") and item.category in ("motion", "")

    def _read_predicate(self, words: list[Item], start: int) -> bool:
        """Read "is blue": words of the last noun; returns whether it was that."""
        before = self.items[start - 1].role if start else ""
        if before != "aux" or not self.clause or not all(map(_is_adjective, words)):
            return False
        self.clause[-1].modifiers += words
        _describe_owner(self.clause[-1], words)
        return True

    def _add_noun(self, words: list[Item], leading: list[Item], singular: bool) -> None:
        head = next((word for word in reversed(words) if not _is_adjective(word)), words[-1])
        modifiers = [word for word in words if word is not head]
        number = next((item.number for item in leading if item.role == "number"), 0.0)
        is_said = bool(number)
        if not number and _is_plural(head) and not singular:
            number = grammar.MANY
        noun = Noun(head, modifiers, [], number, singular, is_said, sentence=self.sentence)
        if self.preposition:
            noun.preposition = self.preposition.text
            noun.relation = self.preposition.value
        self._link_owner(noun)
        self._add_relations(noun)
        if self.event:
            is_agent = self.event.is_passive and noun.preposition == "by"
            (self.event.agents if is_agent else self.event.others).append(noun)
        self.scene.nouns.append(noun)
        self.clause.append(noun)
        self.said.append(noun)
        self.preposition = None

    def _link_owner(self, noun: Noun) -> None:
        if noun.preposition == "with" and self.clause:
            noun.owner = self.clause[-1]
        elif self.owner:
            noun.owner = self.owner
            self.owner = None
        if noun.owner:
            _describe_owner(noun, noun.modifiers)

    def _add_relations(self, noun: Noun) -> None:
        if noun.relation:
            earlier = self.said[-MAX_EARLIER:]
            for other in earlier:
                self.scene.relations.append(Relation(other, noun.relation, noun))
            if not earlier:
                self.fronted = (noun.relation, noun)
            return
        if self.side:
            noun.side = self.side
            self.side = ""
        if self.fronted:
            self.scene.relations.append(Relation(noun, *self.fronted))

    # ------------------------------------------------------------------------------------- verbs

    def _read_verb(self, verb: Item) -> None:
        is_passive = self._is_passive(verb)
        agents = self._agents(verb)
        event = Event(verb, [] if is_passive else agents, agents if is_passive else [], is_passive)
        self.scene.events.append(event)
        self.event = event
        self.last_event = event
        self.preposition = None

    def _is_passive(self, verb: Item) -> bool:
        text = verb.text
        if not (text.endswith(("ed", "en", "wn")) or text in grammar.IRREGULAR_VERBS):
            return False
        before = [item.text for item in self.items[max(0, self.position - 3) : self.position]]
        if grammar.PASSIVE_AUXILIARIES & set(before):
            return True
        return any(item.text == "by" for item in self.items[self.position + 1 : self.position + 3])

    def _agents(self, verb: Item) -> list[Noun]:
        """Who does it: the noun right before, else the subject of the clause or the last one."""
        before = self._previous_role()
        if before == "word" and self.clause and not verb.text.endswith("s"):
            return [self.clause[-1]]
        subjects = [noun for noun in self.clause if not noun.preposition]
        objects = self.last_event.others if self.last_event else []
        subjects = [noun for noun in subjects if noun not in objects] or subjects
        if before in ("relative",) and self.clause:
            return [self.clause[-1]]
        if before in ("conjunction", "break") and self.last_event:
            event = self.last_event
            return (event.others[:1] if event.is_passive else event.agents) or subjects[-1:]
        if not subjects:
            subjects = [noun for noun in self.said if not noun.preposition]
        return subjects[-1:]

    def _role(self, offset: int = 0) -> str:
        index = self.position + offset
        return self.items[index].role if index < len(self.items) else ""

    def _previous_role(self) -> str:
        return self.items[self.position - 1].role if self.position else ""


def _describe_owner(part: Noun, words: list[Item]) -> None:
    """Say words about the thing that a part belongs to: "with red fur" says "red" itself."""
    if part.owner:
        is_surface = part.head.lemmas[-1] in SURFACES
        (part.owner.modifiers if is_surface else part.owner.of_parts).extend(words)


def _is_adjective(item: Item) -> bool:
    if item.category:
        return item.category in ADJECTIVES and not _may_be_thing(item)
    return item.text.endswith(ADJECTIVE_ENDINGS)


def _may_be_thing(item: Item) -> bool:
    if item.lemmas[-1] in SURFACES:
        return True
    return bool(THINGS & {category for category, _ in item.concepts | item.broader})


def _is_plural(item: Item) -> bool:
    word = item.text.rsplit(" ", 1)[-1]
    if word in PLURALS:
        return True
    return word.endswith("s") and not word.endswith("ss") and item.lemmas[-1] != word
