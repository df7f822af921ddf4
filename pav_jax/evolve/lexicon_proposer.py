"""Rewrites without a language model: recombined clauses of the best rewrites so far.

Works offline. It learns from the scores of the pool, so it starts in the second round.
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

MAX_TRIES = 12  # texts made for one rewrite before giving up
MAX_OFFERS = 8  # of the pool's best clauses about an aspect, to draw from
FAITHFULNESS_TOLERANCE = 1e-6
# what a child starts from: a rewrite, the user's prompt, or the prompt with the pool's synonyms
REWRITE = "rewrite"
PROMPT = "own words"
SYNONYMS = "pool's words"
BASES = (REWRITE, PROMPT, SYNONYMS)
BASE_PROBABILITIES = (0.7, 0.15, 0.15)


class LexiconProposer(Proposer):
    """Recombines clauses of the scored pool.

    A clause is free when it holds none of the user's words; only free clauses are touched. Free
    clauses with good effects (see `phrase_bank.py`) move between rewrites and, if they are about
    the look of the video or occur with several prompts, between prompts. Words for a level of
    quality are changed by `phrases.json`.

    Args:
      phrases: a file that replaces `phrases.json`.
      faithfulness: if given, a child is at least as faithful as its parent, and a synonym may
        replace a user's word; otherwise every word of the user stays.
      name: of the entry in the configuration.
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
        return cls(options.phrases, context.faithfulness, name)

    def observe(self, rewrites: Sequence[ScoredRewrite]) -> None:
        with_synonyms = self._faithfulness is not None
        self.bank = learn_phrases(rewrites, self.lexicon, with_synonyms)

    def propose(self, requests: Sequence[ProposalRequest]) -> list[list[str]]:
        return [self._rewrites(request) for request in requests]

    def _rewrites(self, request: ProposalRequest) -> list[str]:
        rng = np.random.default_rng(request.seed)
        history = [text for text, _ in request.history]
        # texts that differ by punctuation alone count as the same
        tried = {" ".join(words(text)) for text in (request.prompt, *request.tried, *history)}
        rewrites: list[str] = []
        for attempt in range(request.num_rewrites * MAX_TRIES):
            if len(rewrites) == request.num_rewrites:
                break
            # the first attempts take the best choice everywhere, one from each base
            base = BASES[attempt] if attempt < len(BASES) else None
            breeder = _Breeder(self, request, rng, greedy=base is not None)
            parent, child = breeder.breed(base)
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
        return self._faithfulness(prompt, child) >= before - FAITHFULNESS_TOLERANCE


class _Breeder:
    """Makes one child for a request.

    Args:
      greedy: take the best choice everywhere, instead of drawing one.
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
        self.of_user = content(request.prompt)
        self.rng = rng
        self.greedy = greedy

    def breed(self, base: str | None) -> tuple[str, str]:
        """Return (the parent, which sets the least faithfulness, and the child).

        Args:
          base: what to start from; None draws one.
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
                return parent, parent  # the same child as from the prompt
            clauses = [Clause(self._with_best_opening(text, 0.75), ".")]
        mate: list[Clause] = []
        if self.rewrites:
            mate = split_clauses(self.rewrites[int(self.rng.integers(len(self.rewrites)))])
        # what the user says about the look stays
        fixed = self.lexicon.about(self.prompt)
        aspects = [aspect for aspect in self.lexicon.aspects if aspect not in fixed]
        if not self.greedy:  # the order stays, so that a child that was tried is recognised
            self.rng.shuffle(aspects)
        for aspect in aspects:
            clauses = self._improve(clauses, aspect, mate)
        return parent, join_clauses(clauses)

    def _draw_rewrite(self) -> str:
        """Return the best rewrite, or draw one, each half as likely as the one before."""
        weights = 0.5 ** np.arange(len(self.rewrites))
        if self.greedy:
            return self.rewrites[0]
        return self.rewrites[int(self.rng.choice(len(weights), p=weights / weights.sum()))]

    def _user_words(self, with_synonyms: bool) -> str:
        """Return the user's prompt, with the pool's synonyms that are faithful."""
        text = self.prompt.rstrip(" .!?,;:")
        if not with_synonyms:
            return text
        for word, other in self.bank.synonyms.items():
            changed = re.sub(rf"\b{re.escape(word)}\b", other, text, flags=re.IGNORECASE)
            if changed != text and self.proposer.is_faithful(self.prompt, self.prompt, changed):
                text = changed
        return text

    def _with_best_opening(self, text: str, probability: float) -> str:
        """Return `text` behind the pool's best opening, which replaces a free opening."""
        match = OPENING.match(text)
        present = match[1].lower() if match else ""
        pool_openings = {opening.lower() for opening in self.bank.openings}
        best = max(map(self.bank.opening_effect, pool_openings), default=0.0)
        present_effect = self.bank.opening_effect(present) if present in pool_openings else 0.0
        if best <= max(present_effect, 0.0):
            return text
        if not self.greedy and self.rng.random() >= probability:
            return text
        # "a video of" is free, "a bowl of" in the user's prompt is not
        if match and not content(present) & self.of_user:
            if content(present) and present not in pool_openings:
                return text
            text = text[match.end() :]
        # the first word of the text gets a small letter, unless it can be a name
        is_content = bool(content(text.split(" ")[0]))
        rest = text if is_content else with_case_of(text, "x")
        return f"{with_case_of(self.bank.openings[0], text)} {rest}"

    def _improve(self, clauses: list[Clause], aspect: str, mate: Sequence[Clause]) -> list[Clause]:
        """Replace, change, add or remove what the clauses say about an aspect, or leave it."""
        places = [i for i, c in enumerate(clauses) if aspect in self.lexicon.about(c.text)]
        if any(content(clauses[i].text) & self.of_user for i in places):
            return self._regrade(clauses, places, aspect)
        offer = self._offer(aspect, mate)
        if not places:
            return self._add(clauses, aspect, offer)
        first = clauses[places[0]]
        is_alone = len(self.lexicon.about(first.text)) == 1
        if offer is not None and is_alone and (self.greedy or self.rng.random() < 0.6):
            if not self.greedy or self.bank.effect(offer) > self.bank.effect(first.text):
                return replace_clause(clauses, places[0], offer)
            return clauses
        if not self.greedy and is_alone and len(places) > 1 and self.rng.random() < 0.3:
            return remove_clause(clauses, places[-1])
        return self._regrade(clauses, places, aspect)

    def _add(self, clauses: list[Clause], aspect: str, offer: str | None) -> list[Clause]:
        """Add a clause about an aspect that is not mentioned."""
        if self.greedy:
            wanted = offer is not None and self.bank.effect(offer) > 0
        else:
            wanted = self.rng.random() < 0.4
        if not wanted:
            return clauses
        if offer is None:
            offer = str(self.rng.choice(self.lexicon.phrases[aspect]))
        return append_clause(clauses, offer)

    def _regrade(self, clauses: list[Clause], places: Sequence[int], aspect: str) -> list[Clause]:
        """Change the first of the clauses that can be put at another level."""
        if not self.greedy and self.rng.random() < 0.25:
            return clauses
        level = GOOD if self.greedy or self.rng.random() < 0.85 else POOR
        for i in places:
            old = clauses[i].text
            text = self.lexicon.regrade(old, aspect, level, self.rng, self.bank.familiar)
            if text is not None and content(old) & self.of_user <= content(text):
                return replace_clause(clauses, i, text)
        return clauses

    def _offer(self, aspect: str, mate: Sequence[Clause]) -> str | None:
        """Return a free clause about an aspect: of the mate, or of the pool by effect."""
        of_mate = [c.text for c in mate if aspect in self.lexicon.about(c.text)]
        free_of_mate = [text for text in of_mate if self._is_free(text)]
        if free_of_mate and not self.greedy and self.rng.random() < 0.3:
            return free_of_mate[0]
        best = [text for text in self.bank.clauses.get(aspect, ()) if self._is_free(text)]
        best = best[:MAX_OFFERS]
        if not best or self.greedy:
            return best[0] if best else None
        effects = np.asarray([self.bank.effect(text) for text in best])
        weights = np.exp((effects - effects.max()) / (effects.std() / 2 + 1e-6))
        return best[int(self.rng.choice(len(best), p=weights / weights.sum()))]

    def _is_free(self, text: str) -> bool:
        """Whether a clause holds no word of the user and is about one aspect."""
        return not content(text) & self.of_user and len(self.lexicon.about(text)) == 1
