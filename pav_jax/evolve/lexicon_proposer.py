"""Rewrites without any model: clauses of this run's best rewrites, recombined, and swapped phrases."""

import collections
import dataclasses
import re
from collections.abc import Mapping, Sequence

import numpy as np

from pav_jax.evolve.lexicon import GOOD, POOR, Clause, Lexicon, content, join, split, words
from pav_jax.evolve.proposers import Faith, ProposalRequest, Proposer, Scored

LONGEST = 16  # words of a clause that may move to another prompt
FEATURES = 400  # clauses whose effect is estimated
SHRINK = 2.0  # ridge penalty: a clause seen twice is believed by half
TRIES = 12  # texts bred for one rewrite before giving up
_OPENING = re.compile(r"^((?:[^\W_]+\s+){0,5}(?:of|showing|shows|depicting|featuring))\s+", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class _Bank:
    """What the pool teaches: clauses about each aspect and openings, each with its effect on the overall score."""

    effects: Mapping[str, float]
    clauses: Mapping[str, Sequence[str]]  # aspect ("" for none) -> clause texts, best first
    openings: Sequence[str]
    familiar: frozenset[str]
    stems: frozenset[str]  # of all users' words


class LexiconProposer(Proposer):
    """Breeds rewrites from the scored pool.

    A clause is free when it holds none of the user's words; only free clauses are touched. The effect of a clause is
    its coefficient in a ridge regression of `overall` (less the prompt's mean) on the clauses of all rewrites, so a
    clause is not credited for its company. Free clauses with good effects move between rewrites and, if they
    speak of the look of the video or serve several prompts, between prompts; level words are swapped by `phrases.json`.

    Args:
      phrases: a file that replaces `phrases.json`.
      faith: if given, a child may not be less faithful than its parent.
    """

    def __init__(self, phrases: str | None = None, faith: Faith | None = None, name: str = "lexicon"):
        self.name, self._faith = name, faith
        self._lexicon = Lexicon(phrases)
        self._bank = _Bank({}, {}, (), frozenset(), frozenset())

    def observe(self, scored: Sequence[Scored]) -> None:
        usable = [s for s in scored if np.isfinite(s.overall)]
        users = frozenset().union(*(content(s.prompt) for s in usable)) - self._lexicon.stems
        rows = [self._features(s) for s in usable]
        prompts_of: dict[str, set[str]] = collections.defaultdict(set)
        count: collections.Counter[str] = collections.Counter()
        for s, features in zip(usable, rows, strict=True):
            count.update(features.keys())
            for f in features:
                prompts_of[f].add(s.prompt)
        kept = sorted((f for f, n in count.items() if n > 1), key=lambda f: (-count[f], f))[:FEATURES]
        effects = _effects(usable, rows, kept)
        texts = {f: text for features in rows for f, text in features.items()}
        clauses: dict[str, list[str]] = {}
        openings = []
        for f in sorted(kept, key=lambda f: (-effects[f], f)):
            if f.startswith("opening:"):
                openings.append(texts[f])
            elif not content(f) & users:  # nobody's subject
                aspects = self._lexicon.about(f) or ({""} if len(prompts_of[f]) > 1 else set())
                for aspect in aspects:
                    clauses.setdefault(aspect, []).append(texts[f])
        familiar = frozenset(w for s in usable if s.refined != s.prompt for w in words(s.refined))
        self._bank = _Bank(effects, clauses, openings, familiar, users)

    def _features(self, s: Scored) -> dict[str, str]:
        """The free clauses of a rewrite and its opening, by their normal form."""
        if s.refined == s.prompt:
            return {}
        mine = content(s.prompt)
        features = {c.norm: c.text for c in split(s.refined)
                    if c.text and len(c.text.split()) <= LONGEST and content(c.text) and not content(c.text) & mine}
        if opening := _OPENING.match(s.refined):
            if not content(opening[1]) & mine:
                features["opening:" + opening[1].lower()] = opening[1]
        return features

    def propose(self, requests: Sequence[ProposalRequest]) -> list[list[str]]:
        return [self._children(request) for request in requests]

    def _children(self, request: ProposalRequest) -> list[str]:
        rng = np.random.default_rng(request.seed)
        children: dict[str, None] = {}
        for attempt in range(request.n * TRIES):
            if len(children) == request.n:
                break
            parent, child = self._breed(request, rng, greedy=attempt == 0)
            child = " ".join(child.split())
            if child not in request.taken and child != parent and self._faithful(request.prompt, parent, child):
                children[child] = None
        return list(children)

    def _faithful(self, prompt: str, parent: str, child: str) -> bool:
        mine = content(prompt)
        if not mine & content(parent) <= content(child):
            return False
        return self._faith is None or self._faith(prompt, child) >= self._faith(prompt, parent) - 1e-6

    def _breed(self, request: ProposalRequest, rng: np.random.Generator, greedy: bool) -> tuple[str, str]:
        """(what the child is held against for faithfulness, the child)."""
        rewrites = [text for text, _ in request.history[1:]]
        if not rewrites or (not greedy and rng.random() < 0.25):
            parent, clauses = request.prompt, self._own_words(request.prompt, rng, greedy)
        else:
            weight = 0.5 ** np.arange(len(rewrites))
            place = 0 if greedy else int(rng.choice(len(rewrites), p=weight / weight.sum()))
            parent, clauses = rewrites[place], split(rewrites[place])
        mine = content(request.prompt)
        mate = split(rewrites[int(rng.integers(len(rewrites)))]) if rewrites else []
        spoken = self._lexicon.about(request.prompt)
        aspects = [a for a in self._lexicon.aspects if a not in spoken]  # what the user says of the look stands
        rng.shuffle(aspects)
        for aspect in aspects:
            clauses = self._better(clauses, aspect, mine, mate, rng, greedy)
        return parent, join(clauses)

    def _own_words(self, prompt: str, rng: np.random.Generator, greedy: bool) -> list[Clause]:
        """The user's words behind a good opening of the pool, ready for clauses to be added."""
        text, openings = prompt.rstrip(" .!?,;:"), self._bank.openings
        usable = [o for o in openings if self._bank.effects["opening:" + o.lower()] > 0]
        if usable and (greedy or rng.random() < 0.75):
            own = _OPENING.match(text)
            if own and not content(own[1]):  # "a video of", but not "a bowl of"
                text = text[own.end() :]
            text = f"{usable[0]} {text}"
        return [Clause(text, ".")]

    def _better(self, clauses: list[Clause], aspect: str, mine: frozenset[str], mate: Sequence[Clause],
                rng: np.random.Generator, greedy: bool) -> list[Clause]:
        """`clauses` with what they say of one aspect replaced, regraded, added or taken out; or as they were."""
        where = [i for i, c in enumerate(clauses) if aspect in self._lexicon.about(c.text)]
        if any(content(clauses[i].text) & mine for i in where):
            return self._regraded(clauses, where, aspect, mine, rng, greedy)
        offer = self._offer(aspect, mine, mate, rng, greedy)
        if not where:
            wanted = offer is not None and self._effect(offer) > 0 if greedy else rng.random() < 0.4
            if wanted and offer is None:
                offer = str(rng.choice(self._lexicon.phrases[aspect]))
            return _added(clauses, offer) if wanted else clauses
        first = clauses[where[0]]
        alone = len(self._lexicon.about(first.text)) == 1
        if offer is not None and alone and (greedy or rng.random() < 0.6):
            if not greedy or self._effect(offer) > self._effect(first.text):
                return _replaced(clauses, where[0], offer)
            return clauses
        if not greedy and alone and len(where) > 1 and rng.random() < 0.3:
            return _removed(clauses, where[-1])
        return self._regraded(clauses, where, aspect, mine, rng, greedy)

    def _regraded(self, clauses, where, aspect, mine, rng, greedy) -> list[Clause]:
        if not greedy and rng.random() < 0.25:
            return clauses
        level = GOOD if greedy or rng.random() < 0.85 else POOR
        for i in where:
            text = self._lexicon.regrade(clauses[i].text, aspect, level, rng, self._bank.familiar)
            if text is not None and content(clauses[i].text) & mine <= content(text):
                return _replaced(clauses, i, text)
        return clauses

    def _offer(self, aspect, mine, mate, rng, greedy) -> str | None:
        """A clause about the aspect: from the mate, or from the pool by effect. None where there is none."""
        def free(text: str) -> bool:
            return not content(text) & mine and len(self._lexicon.about(text)) == 1

        from_mate = [c.text for c in mate if aspect in self._lexicon.about(c.text) and free(c.text)]
        if from_mate and not greedy and rng.random() < 0.3:
            return from_mate[0]
        known = [text for text in self._bank.clauses.get(aspect, ()) if free(text)][:8]
        if not known:
            return None
        if greedy:
            return known[0]
        effects = np.asarray([self._effect(text) for text in known])
        weight = np.exp((effects - effects.max()) / (effects.std() / 2 + 1e-6))
        return known[int(rng.choice(len(known), p=weight / weight.sum()))]

    def _effect(self, text: str) -> float:
        return self._bank.effects.get(" ".join(text.lower().split()), 0.0)


def _effects(scored: Sequence[Scored], rows: Sequence[Mapping[str, str]], kept: Sequence[str]) -> dict[str, float]:
    """Ridge regression of the overall score, less its prompt's mean, on which clauses a rewrite has."""
    if not kept:
        return {}
    of_prompt: dict[str, list[float]] = collections.defaultdict(list)
    for s in scored:
        of_prompt[s.prompt].append(s.overall)
    y_N = np.asarray([s.overall - np.mean(of_prompt[s.prompt]) for s in scored])
    place = {f: j for j, f in enumerate(kept)}
    x_NxF = np.zeros((len(rows), len(kept)))
    for i, features in enumerate(rows):
        for f in features:
            if f in place:
                x_NxF[i, place[f]] = 1
    x_NxF -= x_NxF.mean(axis=0)
    solved_F = np.linalg.solve(x_NxF.T @ x_NxF + SHRINK * np.eye(len(kept)), x_NxF.T @ y_N)
    return dict(zip(kept, solved_F.tolist(), strict=True))


def _cased(text: str, like: str) -> str:
    """`text` beginning with a capital if `like` does."""
    return text[:1].upper() + text[1:] if like[:1].isupper() else text[:1].lower() + text[1:]


def _replaced(clauses: list[Clause], i: int, text: str) -> list[Clause]:
    return [*clauses[:i], Clause(_cased(text, clauses[i].text), clauses[i].end), *clauses[i + 1 :]]


def _removed(clauses: list[Clause], i: int) -> list[Clause]:
    """Without clause `i`, whose ending goes to the one before, so that a sentence still ends."""
    if i == 0:
        return clauses[1:]
    before = clauses[i - 1]
    return [*clauses[: i - 1], Clause(before.text, clauses[i].end or before.end), *clauses[i + 1 :]]


def _added(clauses: list[Clause], text: str) -> list[Clause]:
    """One more clause at the end: after a comma if the last sentence has commas, else as a sentence of its own."""
    last = clauses[-1]
    listing = len(clauses) > 1 and clauses[-2].end.strip() in (",", ";", "/")
    end = clauses[-2].end if listing else ". "
    text = _cased(text, "x" if listing else clauses[0].text)
    return [*clauses[:-1], Clause(last.text, end), Clause(text, last.end.strip() or ".")]
