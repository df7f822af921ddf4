"""Misspelt words of a prompt that a rewrite spells right."""

from pav_jax.rewards.faith.lexicon import Lexicon, Unit
from pav_jax.rewards.lemmas import words

MIN_LENGTH = 5
TWO_EDITS = 8  # length from which two edits are allowed


def find_typo(unit: Unit, refined: str, lexicon: Lexicon) -> bool:
    """Whether a word of a prompt that no dictionary knows is a word of the rewrite, misspelt."""
    text = unit.text
    if len(text) < MIN_LENGTH or " " in text or lexicon.knows(text):
        return False
    edits = 2 if len(text) >= TWO_EDITS else 1
    candidates = {word for word in words(refined) if _may_be_near(text, word, edits)}
    return any(
        _distance(text, word) <= edits
        for word in candidates | {lexicon.lemmatise.lemma(word) for word in candidates}
    )


def _may_be_near(first: str, second: str, edits: int) -> bool:
    """Whether a cheap test allows that few edits lie between two words with the same first letter.

    An edit adds or removes at most one letter of each word's set.
    """
    if first[0] != second[0] or abs(len(first) - len(second)) > edits:
        return False
    letters, others = set(first), set(second)
    return len(letters - others) <= edits and len(others - letters) <= edits


def _distance(first: str, second: str) -> int:
    """Edits between two words; two neighbouring letters swapped count as one."""
    before: list[int] = []
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, 1):
        before, last, row = row, before, [i]
        for j, b in enumerate(second, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (a != b))
            if i > 1 and j > 1 and a == second[j - 2] and first[i - 2] == b:
                cost = min(cost, last[j - 2] + 1)
            row.append(cost)
    return row[-1]
