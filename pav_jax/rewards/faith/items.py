"""Words of a text in order, each with its role in the sentence and its concepts."""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterator

from pav_jax.rewards.faith import grammar
from pav_jax.rewards.faith.lexicon import Concept, Lexicon

QUOTE = re.compile(
    r"\"([^\"\n]{1,300})\"|“([^“”\n]{1,300})”|«([^«»\n]{1,300})»|''([^'\n]{1,200})''"
    r"|(?<!\w)['‘](?!\s)((?:[^'’\n]|(?<=\w)['’](?=\w)){1,200})(?<!\s)['’](?!\w)"
)
TOKEN = re.compile(r"\x00|[a-z0-9]+(?:[.:]\d+)?(?:'[a-z]+)?|[.,;:!?()\[\]—–/]")
MAX_NEGATED = 6  # words after "no"
NUMBER_NAMES = {number: word for word, number in reversed(grammar.NUMBERS.items())}
MAX_LISTED = 40  # items of a list of what is denied
LISTING = frozenset({"or", "nor"})
MAX_PHRASE = 5
PHRASE_STARTS = frozenset(phrase.split()[0] for phrase in (*grammar.PHRASES, *grammar.SIDES))
NO_ADVERBS = frozenset(
    "family butterfly lily elderly lonely lovely lively friendly curly ugly silly early daily"  # noqa: SIM905
    " jelly belly bully fly assembly rally ally monopoly dragonfly".split()
)
SCOPE_ENDS = frozenset({"break", "subordinator", "relative", "aux", "negation"})
# verbs whose un- form is another action
OTHER_UN = frozenset("fold cover wind furl veil load lock pack tie wrap roll known".split())  # noqa: SIM905


@dataclasses.dataclass(frozen=True)
class Item:
    """A word or phrase.

    Attributes:
      role: determiner, negation, number, preposition, conjunction, relative, subordinator, break,
        aux, pronoun, adverb, side, camera, quote, or word.
      text: in lower case.
      lemmas: of its words.
      category: in the lexicon; "" where it has none.
      concepts: that it names.
      broader: concepts that are broader.
      value: the spatial relation of a preposition, left or right of a side, a number as typed.
      number: of things.
      negated: whether "no" or the like applies to it.
    """

    role: str
    text: str
    lemmas: tuple[str, ...] = ()
    category: str = ""
    concepts: frozenset[Concept] = frozenset()
    broader: frozenset[Concept] = frozenset()
    value: str = ""
    number: float = 0.0
    negated: bool = False

    @property
    def names(self) -> frozenset[str]:
        """Its lemmas, joined, and the names of its concepts."""
        return frozenset({" ".join(self.lemmas), *(name for _, name in self.concepts)})


BOTH = Item("determiner", "both")  # of two things that are listed


def quotes_in(text: str) -> list[str]:
    """The texts between quotation marks."""
    return [next(filter(None, groups)).strip() for groups in QUOTE.findall(text)]


def read_items(text: str, lexicon: Lexicon, is_known: Callable[[str], bool]) -> list[Item]:
    """The words of a text.

    Args:
      text: in English.
      lexicon: concepts of words.
      is_known: whether a lemma is a word; `leafless` is read as "without leaf" where leaf is one.
    """
    tokens = TOKEN.findall(_expand(QUOTE.sub(" \x00 ", text), lexicon, is_known))
    tokens = [token.removesuffix("'s").replace("'", "") or token for token in tokens]
    lemmas = [lexicon.lemmatise.lemma(token) for token in tokens]
    items: list[Item] = []
    start = 0
    while start < len(tokens):
        item, length = _item(tokens, lemmas, start, lexicon)
        items.append(item)
        start += length
    return list(_negate(items))


def _expand(text: str, lexicon: Lexicon, is_known: Callable[[str], bool]) -> str:
    """The text in lower case with "leafless", "steam-free" and "unsaddled" spelt out."""
    text = text.lower().replace("’", "'").replace("can't", "can not").replace("n't", " not")
    lemma = lexicon.lemmatise.lemma

    def less(match: re.Match[str]) -> str:
        root = match[1]
        is_word = root not in grammar.ORDINARY_LESS and is_known(lemma(root))
        return f" without {root} , " if is_word else match[0]

    def un(match: re.Match[str]) -> str:
        root = lemma(match[1])
        return f" not {match[1]} , " if root not in OTHER_UN and is_known(root) else match[0]

    text = grammar.HYPHEN_FREE.sub(r" without \1 , ", text)
    text = grammar.LESS.sub(less, grammar.FREE.sub("without", text))
    return grammar.UN.sub(un, text)


def _item(tokens: list[str], lemmas: list[str], start: int, lexicon: Lexicon) -> tuple[Item, int]:
    """The item at a position and its number of tokens."""
    longest = MAX_PHRASE if tokens[start] in PHRASE_STARTS else 0
    for length in range(min(longest, len(tokens) - start), 1, -1):
        phrase = " ".join(tokens[start : start + length])
        if phrase in grammar.PHRASES:
            return Item("preposition", phrase, value=grammar.PHRASES[phrase]), length
        if phrase in grammar.SIDES:
            return Item("side", phrase, value=grammar.SIDES[phrase]), length
    if counted := _counter(tokens, start):
        return counted
    length = lexicon.match(lemmas[start : start + 2 * MAX_PHRASE], 0)
    if length > 1:
        word = _word(tokens, lemmas, start, length, lexicon)
        if word.category != "relation":  # "rests on" is a verb and a preposition
            return word, length
    if role := _role(tokens[start]):
        return (BOTH if _lists_two(tokens, start) else role), 1
    word = _word(tokens, lemmas, start, 1, lexicon)
    if word.text.endswith("ly") and not word.category and word.text not in NO_ADVERBS:
        word = dataclasses.replace(word, role="adverb")
    return word, 1


def _word(tokens: list[str], lemmas: list[str], start: int, length: int, lexicon: Lexicon) -> Item:
    key = tuple(lemmas[start : start + length])
    text = " ".join(tokens[start : start + length])
    concepts, broader = lexicon.concepts_of(key)
    category = lexicon.category(concepts)
    role = "camera" if category == "camera" and len(key) > 1 else "word"
    return Item(role, text, key, category, concepts, broader)


def _counter(tokens: list[str], start: int) -> tuple[Item, int] | None:
    """ "a pair of", "lots of": a number and its number of tokens."""
    at = start + (tokens[start] in ("a", "the"))
    if at + 1 >= len(tokens) or tokens[at] not in grammar.COUNTERS or tokens[at + 1] != "of":
        return None
    number = grammar.NUMBERS.get(tokens[at], grammar.MANY)
    text = NUMBER_NAMES.get(number, "several")
    return Item("number", text, (text,), value=tokens[at], number=number), at + 2 - start


def _lists_two(tokens: list[str], start: int) -> bool:
    """Whether "both" announces two things, "both the helmet and the umbrella", and counts none."""
    return tokens[start] == "both" and "and" in tokens[start + 1 : start + MAX_PHRASE + 1]


@functools.lru_cache(maxsize=4096)
def _role(token: str) -> Item | None:
    """A function word, number or mark; None for another word."""
    if token == "\x00":
        return Item("quote", token)
    if token.isdecimal() and len(token) < 5:
        number = float(token)
        text = NUMBER_NAMES.get(number, token)
        return Item("number", text, (text,), value=token, number=number)
    if token in grammar.NUMBERS and token not in ("couple", "twin", "twins"):
        number = grammar.NUMBERS[token]
        text = NUMBER_NAMES.get(number, token)
        return Item("number", text, (text,), value=token, number=number)
    if token in ("several", "many", "numerous", "multiple", "countless", "few"):
        return Item("number", "several", ("several",), number=grammar.MANY)
    for role, words in (
        ("break", grammar.BREAKS | {","}),
        ("determiner", grammar.DETERMINERS),
        ("negation", grammar.NEGATIONS),
        ("relative", grammar.RELATIVES),
        ("conjunction", grammar.CONJUNCTIONS),
        ("subordinator", grammar.SUBORDINATORS),
        ("aux", grammar.AUXILIARIES),
        ("pronoun", grammar.PRONOUNS),
        ("preposition", grammar.PREPOSITIONS),
        ("adverb", grammar.ADVERBS),
    ):
        if token in words:
            return Item(role, token, value=grammar.SPATIAL.get(token, ""))
    return None


def _negate(items: list[Item]) -> Iterator[Item]:
    """Mark the items that a negation applies to."""
    left = 0
    for i, item in enumerate(items):
        is_next = i > 0 and (items[i - 1].text in LISTING or items[i - 1].text == ",")
        if left < MAX_NEGATED and ((item.role == "determiner" and not is_next) or _is_action(item)):
            left = 0  # "without a beard drinking": the thing was named already
        if item.role == "negation":
            following = items[i + 1].text if i + 1 < len(items) else ""
            left = 0 if (item.text, following) in grammar.NOT_NEGATIONS else MAX_NEGATED
        elif left and item.text == "," and _is_list(items, i):
            left = MAX_NEGATED - 1
        elif _ends_scope(item) and not (left == MAX_NEGATED and _is_within(items, i)):
            left = 0
        yield dataclasses.replace(item, negated=True) if left and item.lemmas else item
        left -= left > 0 and item.role in ("word", "camera")


def _is_list(items: list[Item], comma: int) -> bool:
    """Whether a list goes on after a comma: "no people, cars, or dogs", "no cars, and no dogs"."""
    for i in range(comma + 1, min(len(items), comma + MAX_LISTED)):
        item = items[i]
        if item.text in LISTING:
            return True
        if item.role == "conjunction":
            return item.text == "and" and i + 1 < len(items) and items[i + 1].text == "no"
        if item.role != "word" and item.text != ",":
            return False
    return False


def _is_within(items: list[Item], position: int) -> bool:
    """Whether a word right after a negation is not what is denied: "does not have a beard"."""
    item, before = items[position], items[position - 1]
    if before.text not in ("not", "never"):
        return False
    if item.role == "aux":
        return item.text in grammar.POSSESSION
    following = items[position + 1] if position + 1 < len(items) else before
    return item.role == "preposition" and following.text in ("a", "an", "any")  # on a leash


def _is_action(item: Item) -> bool:
    is_inflected = bool(item.lemmas) and item.lemmas[0] != item.text
    return is_inflected and (item.text.endswith("ing") or item.category == "motion")


def _ends_scope(item: Item) -> bool:
    if item.role == "preposition":
        return item.text != "of"
    return item.role in SCOPE_ENDS or item.text in ("and", "but")
