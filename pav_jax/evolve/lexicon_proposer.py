"""Rewrites without a language model: recombines clauses of the best rewrites so far.

Works offline. It learns from the scores of the pool, so use it from the second round on.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from pav_jax.evolve.clauses import (
    Clause,
    append_clause,
    content,
    join_clauses,
    remove_clause,
    replace_clause,
    split_clauses,
    with_case_of,
    words,
)
from pav_jax.evolve.lexicon import GOOD, POOR, Lexicon
from pav_jax.evolve.options import LexiconOptions
from pav_jax.evolve.phrase_bank import OPENING, PhraseBank, learn_phrases
from pav_jax.evolve.proposer import (
    Faithfulness,
    ProposalRequest,
    Proposer,
    ProposerContext,
    ScoredRewrite,
)

MAX_TRIES = 12  # attempts per requested rewrite
MAX_SUGGESTIONS = 8  # draw from this many of the pool's best clauses about an aspect
FAITHFULNESS_TOLERANCE = 1e-6
# Starting text of a child: a rewrite, the user's prompt, or the prompt with the pool's synonyms.
REWRITE = "rewrite"
PROMPT = "own words"
SYNONYMS = "pool's words"
BASES = (REWRITE, PROMPT, SYNONYMS)
BASE_PROBABILITIES = (0.7, 0.15, 0.15)


class LexiconProposer(Proposer):
    """Recombines clauses of the scored pool.

    A clause is free if it contains none of the user's words. Only free clauses are replaced. Those
    with good effects (see `phrase_bank.py`) move between rewrites and, if they are about the look
    of the video or occur with several prompts, between prompts. Words for a level of quality are
    changed with `phrases.json`.

    Args:
      phrases: file that replaces `phrases.json`.
      faithfulness: if set, a child is at least as faithful as its parent, and a synonym may replace
        a user's word; otherwise every word of the user is kept.
      name: name of the entry in the configuration.
    """

    options = LexiconOptions

    def __init__(
        self,
        phrases: str | None = None,
        faithfulness: Faithfulness | None = None,
        name: str = "lexicon",
    ):
        self.name = name
        self.bank = PhraseBank()
        self._faithfulness = faithfulness
        self.lexicon = Lexicon(phrases)

    @classmethod
    def from_options(cls, options: Any, context: ProposerContext, name: str) -> "LexiconProposer":
        """Make the proposer of an entry of the configuration."""
        return cls(options.phrases, context.faithfulness, name)

    def observe(self, rewrites: Sequence[ScoredRewrite]) -> None:
        """Learn the phrases from the rewrites that were scored so far."""
        with_synonyms = self._faithfulness is not None
        self.bank = learn_phrases(rewrites, self.lexicon, with_synonyms)

    def propose(self, requests: Sequence[ProposalRequest]) -> list[list[str]]:
        """Compose rewrites from the learnt phrases: one list per request."""
        return [self._rewrites(request) for request in requests]

    def _rewrites(self, request: ProposalRequest) -> list[str]:
        rng = np.random.default_rng(request.seed)
        history = [text for text, _ in request.history]
        # texts that differ only in punctuation count as the same
        tried = {" ".join(words(text)) for text in (request.prompt, *request.tried, *history)}
        rewrites: list[str] = []
        for attempt in range(request.num_rewrites * MAX_TRIES):
            if len(rewrites) == request.num_rewrites:
                break
            # The first attempts are greedy, one from each base.
            base = BASES[attempt] if attempt < len(BASES) else None
            builder = _ChildBuilder(self, request, rng, greedy=base is not None)
            parent, child = builder.build(base)
            child = " ".join(child.split())
            same_words = " ".join(words(child))
            if same_words not in tried and self.is_faithful(request.prompt, parent, child):
                rewrites.append(child)
                tried.add(same_words)
        return rewrites

    def is_faithful(self, prompt: str, parent: str, child: str) -> bool:
        """Whether a child preserves as much of the user's prompt as its parent."""
        if self._faithfulness is None:
            return content(prompt) & content(parent) <= content(child)
        before = self._faithfulness(prompt, parent)
        # False for NaN, the score of a prompt in another language: nothing is known to be lost
        return not self._faithfulness(prompt, child) < before - FAITHFULNESS_TOLERANCE


class _ChildBuilder:
    """Makes one child for a request.

    Args:
      greedy: make the best choice at every step instead of sampling.
    """

    def __init__(
        self,
        proposer: LexiconProposer,
        request: ProposalRequest,
        rng: np.random.Generator,
        greedy: bool,
    ):
        self.proposer = proposer
        self.lexicon = proposer.lexicon
        self.bank = proposer.bank
        self.prompt = request.prompt
        self.rewrites = [text for text, _ in request.history[1:]]
        self.user_roots = content(request.prompt)
        self.rng = rng
        self.greedy = greedy

    def build(self, base: str | None) -> tuple[str, str]:
        """Return (parent, child); the child must be at least as faithful as the parent.

        Args:
          base: the starting text, one of `BASES`; None draws one.
        """
        if base is None:
            base = str(self.rng.choice(list(BASES), p=list(BASE_PROBABILITIES)))
        if self.rewrites and base == REWRITE:
            parent = self._draw_rewrite()
            text = self._with_best_opening(parent, 0.25) if OPENING.match(parent) else parent
            clauses = split_clauses(text)
        else:
            parent = self.prompt
            text = self._user_words(with_synonyms=base == SYNONYMS)
            no_synonyms = text == self._user_words(with_synonyms=False)
            if self.greedy and base == SYNONYMS and no_synonyms:
                return parent, parent  # identical to the child of the prompt
            clauses = [Clause(self._with_best_opening(text, 0.75), ".")]
        mate: list[Clause] = []
        if self.rewrites:
            mate = split_clauses(self.rewrites[int(self.rng.integers(len(self.rewrites)))])
        # keep what the user says about the look
        user_aspects = self.lexicon.about(self.prompt)
        aspects = [aspect for aspect in self.lexicon.aspects if aspect not in user_aspects]
        if not self.greedy:  # the greedy order is fixed, so that tried children are recognized
            self.rng.shuffle(aspects)
        for aspect in aspects:
            clauses = self._improve(clauses, aspect, mate)
        return parent, join_clauses(clauses)

    def _draw_rewrite(self) -> str:
        """Return the best rewrite if greedy, else draw one; the odds halve with each rank."""
        weights = 0.5 ** np.arange(len(self.rewrites))
        if self.greedy:
            return self.rewrites[0]
        return self.rewrites[int(self.rng.choice(len(weights), p=weights / weights.sum()))]

    def _user_words(self, with_synonyms: bool) -> str:
        """Return the user's prompt, optionally with the pool's faithful synonyms."""
        text = self.prompt.rstrip(" .!?,;:")
        if not with_synonyms:
            return text
        for word, other in self.bank.synonyms.items():
            changed = re.sub(rf"\b{re.escape(word)}\b", other, text, flags=re.IGNORECASE)
            if changed != text and self.proposer.is_faithful(self.prompt, self.prompt, changed):
                text = changed
        return text

    def _with_best_opening(self, text: str, probability: float) -> str:
        """Return `text` after the pool's best opening, which replaces a free opening."""
        match = OPENING.match(text)
        current = match[1].lower() if match else ""
        pool_openings = {opening.lower() for opening in self.bank.openings}
        best = max(map(self.bank.opening_effect, pool_openings), default=0.0)
        current_effect = self.bank.opening_effect(current) if current in pool_openings else 0.0
        if best <= max(current_effect, 0.0):
            return text
        if not self.greedy and self.rng.random() >= probability:
            return text
        # "a video of" is free, "a bowl of" in the user's prompt is not
        if match and not content(current) & self.user_roots:
            if content(current) and current not in pool_openings:
                return text
            text = text[match.end() :]
        # lower the first letter, unless the word may be a name
        is_content = bool(content(text.split(" ")[0]))
        rest = text if is_content else with_case_of(text, "x")
        return f"{with_case_of(self.bank.openings[0], text)} {rest}"

    def _improve(self, clauses: list[Clause], aspect: str, mate: Sequence[Clause]) -> list[Clause]:
        """Replace, regrade, add or remove the clause about an aspect, or leave it unchanged."""
        indices = [i for i, c in enumerate(clauses) if aspect in self.lexicon.about(c.text)]
        if any(content(clauses[i].text) & self.user_roots for i in indices):
            return self._regrade(clauses, indices, aspect)
        suggestion = self._suggestion(aspect, mate)
        if not indices:
            return self._add(clauses, aspect, suggestion)
        first = clauses[indices[0]]
        is_single_aspect = len(self.lexicon.about(first.text)) == 1
        if suggestion is not None and is_single_aspect and (self.greedy or self.rng.random() < 0.6):
            if not self.greedy or self.bank.effect(suggestion) > self.bank.effect(first.text):
                return replace_clause(clauses, indices[0], suggestion)
            return clauses
        if not self.greedy and is_single_aspect and len(indices) > 1 and self.rng.random() < 0.3:
            return remove_clause(clauses, indices[-1])
        return self._regrade(clauses, indices, aspect)

    def _add(self, clauses: list[Clause], aspect: str, suggestion: str | None) -> list[Clause]:
        """Add a clause about an aspect that is not mentioned."""
        if self.greedy:
            is_added = suggestion is not None and self.bank.effect(suggestion) > 0
        else:
            is_added = self.rng.random() < 0.4
        if not is_added:
            return clauses
        if suggestion is None:
            suggestion = str(self.rng.choice(self.lexicon.phrases[aspect]))
        return append_clause(clauses, suggestion)

    def _regrade(self, clauses: list[Clause], indices: Sequence[int], aspect: str) -> list[Clause]:
        """Change the level of the first clause that allows it."""
        if not self.greedy and self.rng.random() < 0.25:
            return clauses
        level = GOOD if self.greedy or self.rng.random() < 0.85 else POOR
        for i in indices:
            old = clauses[i].text
            text = self.lexicon.regrade(old, aspect, level, self.rng, self.bank.familiar)
            if text is not None and content(old) & self.user_roots <= content(text):
                return replace_clause(clauses, i, text)
        return clauses

    def _suggestion(self, aspect: str, mate: Sequence[Clause]) -> str | None:
        """Return a free clause about an aspect: from the mate, or from the pool by effect."""
        mate_clauses = [c.text for c in mate if aspect in self.lexicon.about(c.text)]
        free_mate_clauses = [text for text in mate_clauses if self._is_free(text)]
        if free_mate_clauses and not self.greedy and self.rng.random() < 0.3:
            return free_mate_clauses[0]
        best = [text for text in self.bank.clauses.get(aspect, ()) if self._is_free(text)]
        best = best[:MAX_SUGGESTIONS]
        if not best or self.greedy:
            return best[0] if best else None
        effects = np.asarray([self.bank.effect(text) for text in best])
        weights = np.exp((effects - effects.max()) / (effects.std() / 2 + 1e-6))
        return best[int(self.rng.choice(len(best), p=weights / weights.sum()))]

    def _is_free(self, text: str) -> bool:
        """Whether a clause contains no word of the user and is about one aspect."""
        return not content(text) & self.user_roots and len(self.lexicon.about(text)) == 1
