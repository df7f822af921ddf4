"""A rewrite without the sentences that contradict its prompt, and with what it lost said again."""

import math
import re
from collections.abc import Sequence

from pav_jax.booster.prompt_syntax import has_term, term_pattern
from pav_jax.booster.prompt_syntax.names import is_trigger
from pav_jax.booster.sentences import sentence_spans
from pav_jax.rewards.faithfulness import Judgement, judge
from pav_jax.rewards.lemmas import words

# ends of clauses; commas within numbers and quoted texts are no ends
CLAUSE = re.compile(r"(?:[^,.;!?\n\"“”]|\"[^\"\n]*\"|“[^”\n]*”|(?<=\d)[.,](?=\d)|[.](?=\w))+")


def restore_case(text: str, terms: Sequence[str]) -> str:
    """A text in which terms that it has in other capitals are written as they were typed."""
    for term in terms:
        if not has_term(text, term):
            text = re.sub(term_pattern(term), lambda _, t=term: t, text, flags=re.IGNORECASE)
    return text


def without_faults(rewrite: str, prompt: str) -> str:
    """Leave out the sentences that contradict a prompt or add people or animals to it.

    One sentence after another goes, each time the one without which FAITH finds the fewest faults.
    A text in which no single sentence is at fault is returned as it is, and so is its last
    sentence.

    Args:
      rewrite: a text of whole sentences.
      prompt: what the user typed, without flags.
    """
    text, faults = rewrite, _faults(judge(prompt, rewrite))
    while faults[0]:
        parts = [text[start:end].strip() for start, end in sentence_spans(text)]
        shorter = [" ".join(parts[:i] + parts[i + 1 :]) for i in range(len(parts))]
        rest = [(_faults(judge(prompt, other)), other) for other in shorter if other]
        if not rest or min(rest)[0][0] >= faults[0]:
            break
        faults, text = min(rest)
    return text


def _faults(judgement: Judgement) -> tuple[float, float]:
    """The number of contradictions and additions, then FAITH with the sign of a loss.

    A text that FAITH cannot read is the worst.
    """
    if math.isnan(judgement.score):
        return math.inf, 0.0
    return len(judgement.contradicted) + len(judgement.added), -judgement.score


def say_again(rewrite: str, prompt: str, units: Sequence[str], terms: Sequence[str]) -> str:
    """A rewrite with the clauses of the prompt that say what it lost.

    The first clause, which names the subject, is put before the rewrite; others follow it.

    Args:
      rewrite: a text of whole sentences.
      prompt: what the user typed, without flags.
      units: of the prompt, which the rewrite lost; see `faith.judge.JudgedUnit`.
      terms: literal terms of the prompt, which the rewrite lost.
    """
    clauses = [clause.strip() for clause in CLAUSE.findall(prompt) if clause.strip()]
    needed = {_clause_of_term(term, clauses) for term in terms}
    needed |= {_clause_of_unit(unit, clauses) for unit in units}
    if None in needed:  # what no single clause contains
        return f"{_sentence(prompt)} {rewrite}"
    sentences = {i: _sentence(clause) for i, clause in enumerate(clauses) if i in needed}
    before = [sentence for i, sentence in sentences.items() if i == 0]
    after = [sentence for i, sentence in sentences.items() if i > 0]
    return " ".join([*before, _closed(rewrite), *after])


def _clause_of_term(term: str, clauses: Sequence[str]) -> int | None:
    own = (i for i, clause in enumerate(clauses) if has_term(clause, term))
    return next(own, next((i for i, clause in enumerate(clauses) if term in clause), None))


def _clause_of_unit(unit: str, clauses: Sequence[str]) -> int | None:
    """The clause that has the most words of a unit."""
    said = set(words(unit))
    shared = [len(said & set(words(clause))) for clause in clauses]
    return shared.index(max(shared)) if any(shared) else None


def _sentence(clause: str) -> str:
    """A clause as a sentence; a first word that is a name, as "iPhone" or "ohwx", is unchanged."""
    clause = clause.strip()
    first_word = re.match(r"[^\W_]*", clause)
    word = first_word[0] if first_word else ""
    is_name = word != word.lower() or is_trigger(word)
    return _closed(clause if is_name else clause[:1].upper() + clause[1:])


def _closed(text: str) -> str:
    """A text that ends like a sentence."""
    return text if re.search(r"[.!?…][\"'”’)\]]*\Z", text) else text.rstrip(" ,;:-") + "."
