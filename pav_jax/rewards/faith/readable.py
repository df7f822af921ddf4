"""Whether a text is English, as far as a score may be based on it."""

import re

from pav_jax.rewards.faith.lexicon import Lexicon

MIN_LATIN = 0.7  # share of letters
WORD = re.compile(r"[^\W\d_]+")
# common function words of other languages in Latin script that are no English words
FOREIGN = frozenset(
    "el los las una unos unas del que y en por para con su sus es muy sobre desde hasta esta está"  # noqa: SIM905
    " le les une des du et dans avec sur pour est qui aux au sous ses sont très"
    " der die das ein eine einen einem einer und auf mit dem den im ist nicht von zu vor über unter"
    " il lo gli della nel nella che di per con sono una uno"
    " um uma os dos das não com em na no seu sua"
    " een het en van op met zijn niet naar bij och på är av den ett som med för"
    " jest nie na się z w przez ve bir ile için".split()
) - frozenset("no a i in on an as at do so die lo is me com den dem".split())  # noqa: SIM905
ALSO_ENGLISH = frozenset({"van", "met", "per", "con"})  # foreign only where no word is English
MIN_WORDS = 3  # from which words of which none is known are another language
MIN_FOREIGN = 2
MIN_FOREIGN_SHARE = 0.2


def is_readable(text: str, lexicon: Lexicon, may_be_empty: bool = False) -> bool:
    """Whether the words of a text are English.

    Args:
      text: a prompt or a rewrite.
      lexicon: concepts of words.
      may_be_empty: whether a text without words counts as readable.
    """
    words = WORD.findall(text.lower())
    letters = sum(map(len, words))
    if not letters:
        return may_be_empty
    latin = sum(len(word) for word in words if word.isascii() or _is_latin(word))
    if latin < MIN_LATIN * letters:
        return False
    foreign = sum(word in FOREIGN for word in words)
    english = sum(word in lexicon.stop for word in words)
    may_be_foreign = len(words) >= MIN_WORDS and (foreign or not text.isascii())
    if may_be_foreign and not english and not any(map(lexicon.knows, words)):
        return False
    foreign -= sum(word in ALSO_ENGLISH for word in words)
    is_foreign = foreign >= MIN_FOREIGN and foreign >= MIN_FOREIGN_SHARE * len(words)
    return not (is_foreign and foreign > english)


def _is_latin(word: str) -> bool:
    return all(letter < "\u0250" for letter in word)
