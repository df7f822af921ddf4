"""Rewrites without any model: clauses of this run's best rewrites, recombined, and swapped
phrases."""

import collections
import dataclasses
import re
from collections.abc import Mapping, Sequence

import numpy as np

from pav_jax.evolve.lexicon import GOOD, POOR, Clause, Lexicon, content, join, split, words
from pav_jax.evolve.proposers import Faith, ProposalRequest, Proposer, Scored

LONGEST = 16  # words of a clause that may move to another prompt
OFTEN, LIFT = (
    0.15,
    8.0,
)  # a synonym: its share of the rewrites that lack the word, and against the other rewrites
FEW = 3  # prompts, or rewrites: less is no evidence that one word stands for another
COMMON = 0.1  # deviations of overall that a word e times as common is expected to be better
SHORT = 6  # words of a clause that reads well in a list
FEATURES = 600  # clauses, their words, openings and words for the user's whose effect is estimated
SHRINK = (
    1.0,
    2.0,
    4.0,
    8.0,
    16.0,
    32.0,
    64.0,
    128.0,
)  # ridge penalties: what is seen so often is believed by half
TRIES = 12  # texts bred for one rewrite before giving up
SURE = ("rewrite", "own words", "pool's words")  # bases of the first children, in order
_OPENING = re.compile(
    r"^((?:[^\W_]+\s+){0,5}(?:of|showing|shows|depicting|featuring))\s+", re.IGNORECASE
)


@dataclasses.dataclass(frozen=True)
class _Bank:
    """What the pool teaches: clauses about each aspect and openings, each with its effect on the
    overall score."""

    effects: Mapping[str, float]
    clauses: Mapping[str, Sequence[str]]  # aspect ("" for none) -> clause texts, best first
    openings: Sequence[str]
    familiar: frozenset[str]
    synonyms: Mapping[str, str]  # a user's word -> what rewrites should say instead


class LexiconProposer(Proposer):
    """Breeds rewrites from the scored pool.

    A clause is free when it holds none of the user's words; only free clauses are touched. The
    effect of a clause is its coefficient in a ridge regression of `overall` (less the prompt's
    mean) on the clauses of all rewrites and on
    their words, plus those of its words: so a clause is not credited for its company, and "in sharp
      focus" learns from
    "the focus is sharp". Free clauses with good effects move between rewrites and, if they speak of
    the look of the video or serve several prompts, between prompts; level words are swapped by
    `phrases.json`.

    Args:
      phrases: a file that replaces `phrases.json`.
      faith: if given, a child may not be less faithful than its parent, and a user's word may give
        way to the best that the pool's rewrites use for it; without it every word of the user
        stays.
    """

    def __init__(
        self, phrases: str | None = None, faith: Faith | None = None, name: str = "lexicon"
    ):
        self.name, self._faith = name, faith
        self._lexicon = Lexicon(phrases)
        self._bank = _Bank({}, {}, (), frozenset(), {})

    def observe(self, scored: Sequence[Scored]) -> None:
        usable = [s for s in scored if np.isfinite(s.overall)]
        users = frozenset().union(*(content(s.prompt) for s in usable)) - self._lexicon.stems
        said_for = _said_for(usable, self._lexicon) if self._faith else {}
        choices = frozenset(said_for).union(*said_for.values())
        rows = [self._features(s, choices) for s in usable]
        prompts_of: dict[str, set[str]] = collections.defaultdict(set)
        count: collections.Counter[str] = collections.Counter()
        for s, features in zip(usable, rows, strict=True):
            count.update(features.keys())
            for f in features:
                prompts_of[f].add(s.prompt)
        kept = sorted((f for f, n in count.items() if n > 1), key=lambda f: (-count[f], f))[
            :FEATURES
        ]
        advantages_N = _advantages(usable)
        effects = _effects(advantages_N, rows, kept)
        texts = {f: text for features in rows for f, text in features.items()}
        kept = [f for f in kept if not f.startswith(("word:", "said:"))]
        effects |= {f: _with_words(effects, f) for f in kept if not f.startswith("opening:")}
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
        synonyms = (
            _synonyms(said_for, effects, count, COMMON * advantages_N.std()) if said_for else {}
        )
        self._bank = _Bank(effects, clauses, openings, familiar, synonyms)

    def _features(self, s: Scored, choices: frozenset[str]) -> dict[str, str]:
        """The free clauses of a rewrite, their words, its opening and which of `choices` it says,
        by normal form."""
        if s.refined == s.prompt:
            return {}
        mine = content(s.prompt)
        features = {
            c.norm: c.text
            for c in split(s.refined)
            if c.text
            and len(c.text.split()) <= LONGEST
            and content(c.text)
            and not content(c.text) & mine
        }
        features |= {f"word:{w}": w for norm in list(features) for w in content(norm)}
        features |= {f"said:{w}": w for w in words(s.refined) if w in choices}
        if opening := _OPENING.match(s.refined):
            if not content(opening[1]) & mine:
                features["opening:" + opening[1].lower()] = opening[1]
        return features

    def propose(self, requests: Sequence[ProposalRequest]) -> list[list[str]]:
        return [self._children(request) for request in requests]

    def _children(self, request: ProposalRequest) -> list[str]:
        rng = np.random.default_rng(request.seed)
        children: dict[str, None] = {}
        # punctuation alone makes nothing new
        tried = {
            " ".join(words(t))
            for t in (request.prompt, *request.taken, *(t for t, _ in request.history))
        }
        for attempt in range(request.n * TRIES):
            if len(children) == request.n:
                break
            # first the surest children: of the best rewrite, of the user's own words, of these in
            # the pool's words
            sure = SURE[attempt] if attempt < len(SURE) else None
            parent, child = self._breed(request, rng, greedy=sure is not None, base=sure)
            child = " ".join(child.split())
            if " ".join(words(child)) not in tried and self._faithful(
                request.prompt, parent, child
            ):
                children[child] = None
                tried.add(" ".join(words(child)))
        return list(children)

    def _faithful(self, prompt: str, parent: str, child: str) -> bool:
        if self._faith is None:
            return content(prompt) & content(parent) <= content(child)
        return self._faith(prompt, child) >= self._faith(prompt, parent) - 1e-6

    def _breed(
        self, request: ProposalRequest, rng: np.random.Generator, greedy: bool, base: str | None
    ) -> tuple[str, str]:
        """(what the child is held against for faithfulness, the child)."""
        rewrites, mine = [text for text, _ in request.history[1:]], content(request.prompt)
        if base is None:
            base = str(rng.choice(["rewrite", "own words", "pool's words"], p=[0.7, 0.15, 0.15]))
        if not rewrites or base != "rewrite":
            parent, text = (
                request.prompt,
                self._own_words(request.prompt, translate=base == "pool's words"),
            )
            if (
                greedy
                and base == "pool's words"
                and text == self._own_words(request.prompt, translate=False)
            ):
                return parent, parent  # the pool has no other words: nothing new
            clauses = [Clause(self._opened(text, mine, rng, greedy, 0.75), ".")]
        else:
            weight = 0.5 ** np.arange(len(rewrites))
            place = 0 if greedy else int(rng.choice(len(rewrites), p=weight / weight.sum()))
            parent = rewrites[place]
            clauses = split(
                self._opened(parent, mine, rng, greedy, 0.25) if _OPENING.match(parent) else parent
            )
        mate = split(rewrites[int(rng.integers(len(rewrites)))]) if rewrites else []
        spoken = self._lexicon.about(request.prompt)
        aspects = [
            a for a in self._lexicon.aspects if a not in spoken
        ]  # what the user says of the look stands
        if not greedy:  # the order stays, so that a sure child already tried is recognised
            rng.shuffle(aspects)
        for aspect in aspects:
            clauses = self._better(clauses, aspect, mine, mate, rng, greedy)
        return parent, join(clauses)

    def _own_words(self, prompt: str, translate: bool) -> str:
        """The user's words, or the pool's words for them."""
        text = prompt.rstrip(" .!?,;:")
        for word, other in self._bank.synonyms.items() if translate else ():
            changed = re.sub(rf"\b{re.escape(word)}\b", other, text, flags=re.IGNORECASE)
            if changed != text and self._faithful(prompt, prompt, changed):  # each on its own merit
                text = changed
        return text

    def _opened(
        self, text: str, mine: frozenset[str], rng: np.random.Generator, greedy: bool, chance: float
    ) -> str:
        """`text` behind the best opening of the pool, which takes the place of one that is none of
        the user's words."""
        effect = {
            o.lower(): self._bank.effects["opening:" + o.lower()] for o in self._bank.openings
        }
        found = _OPENING.match(text)
        own = found[1].lower() if found else ""
        best = max(effect.values(), default=0.0)
        if best <= max(effect.get(own, 0.0), 0.0) or not (greedy or rng.random() < chance):
            return text
        if (
            found and not content(own) & mine
        ):  # "a video of", but not the "a bowl of" that the user wrote
            if content(own) and own not in effect:
                return text
            text = text[found.end() :]
        first = (
            text if content(text.split(" ")[0]) else _cased(text, "x")
        )  # a name keeps its capital
        return f"{_cased(self._bank.openings[0], text)} {first}"

    def _better(
        self,
        clauses: list[Clause],
        aspect: str,
        mine: frozenset[str],
        mate: Sequence[Clause],
        rng: np.random.Generator,
        greedy: bool,
    ) -> list[Clause]:
        """`clauses` with what they say of one aspect replaced, regraded, added or taken out; or as
        they were."""
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
        """A clause about the aspect: from the mate, or from the pool by effect. None where there is
        none."""

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
        norm = " ".join(text.lower().split())
        return self._bank.effects.get(norm, _with_words(self._bank.effects, norm))


def _with_words(effects: Mapping[str, float], clause: str) -> float:
    """The effect of a clause and of its words; of its words alone where it is new."""
    return effects.get(clause, 0.0) + sum(effects.get(f"word:{w}", 0.0) for w in content(clause))


def _effects(
    y_N: np.ndarray, rows: Sequence[Mapping[str, str]], kept: Sequence[str]
) -> dict[str, float]:
    """Ridge regression of the advantages on the features that a rewrite has, of those kept."""
    if not kept:
        return {}
    place = {f: j for j, f in enumerate(kept)}
    x_NxF = np.zeros((len(rows), len(kept)))
    for i, features in enumerate(rows):
        for f in features:
            if f in place:
                x_NxF[i, place[f]] = 1
    x_NxF -= x_NxF.mean(axis=0)
    return dict(zip(kept, _ridge(x_NxF, y_N).tolist(), strict=True))


def _ridge(x_NxF: np.ndarray, y_N: np.ndarray) -> np.ndarray:
    """Coefficients [F] under the penalty of SHRINK whose leave-one-out error is least (Golub, Heath
    & Wahba 1979): the noisier the scores, the less a clause seen a few times is believed."""
    u_NxR, s_R, v_RxF = np.linalg.svd(x_NxF, full_matrices=False)
    target_R = u_NxR.T @ y_N
    errors = []
    for penalty in SHRINK:
        kept_R = s_R**2 / (s_R**2 + penalty)
        left_N = y_N - u_NxR @ (kept_R * target_R)
        own_N = np.minimum(
            np.square(u_NxR) @ kept_R, 1 - 1e-6
        )  # each row's pull on its own prediction
        errors.append(np.mean(np.square(left_N / (1 - own_N))))
    return v_RxF.T @ (s_R / (s_R**2 + SHRINK[int(np.argmin(errors))]) * target_R)


def _advantages(scored: Sequence[Scored]) -> np.ndarray:
    """Overall scores less their prompt's mean [N]."""
    of_prompt: dict[str, list[float]] = collections.defaultdict(list)
    for s in scored:
        of_prompt[s.prompt].append(s.overall)
    return np.asarray([s.overall - np.mean(of_prompt[s.prompt]) for s in scored])


def _said_for(scored: Sequence[Scored], lexicon: Lexicon) -> dict[str, frozenset[str]]:
    """User's word -> those of the same form that stand in rewrites which lack it, and rarely in
    others."""
    rewrites = [
        (frozenset(words(s.prompt)), frozenset(words(s.refined)), s.prompt)
        for s in scored
        if s.refined != s.prompt
    ]
    everywhere = collections.Counter(w for _, said, _ in rewrites for w in said)
    found: dict[str, frozenset[str]] = {}
    for user in sorted(frozenset().union(*(mine for mine, _, _ in rewrites))):
        if not content(user) or content(user) <= lexicon.stems:
            continue
        without = [
            (mine, said, prompt)
            for mine, said, prompt in rewrites
            if user in mine and user not in said
        ]
        if len({prompt for _, _, prompt in without}) < FEW:
            continue
        here = collections.Counter(w for mine, said, _ in without for w in said - mine)
        total = len(rewrites) - len(without)
        fit = frozenset(
            w
            for w, n in here.items()
            if content(w)
            and _form(w) == _form(user)
            and not content(w) <= lexicon.stems
            and n >= max(OFTEN * len(without), FEW)
            and n / len(without) >= LIFT * (everywhere[w] - n) / max(total, 1)
        )
        if fit:
            found[user] = fit
    return found


def _synonyms(
    said_for: Mapping[str, frozenset[str]],
    effects: Mapping[str, float],
    count: Mapping[str, int],
    common: float,
) -> dict[str, str]:
    """User's word -> the best one, where that is another: by its effect, and by `common` for each
    time that it is e times as common."""

    def worth(word: str) -> float:
        return effects.get(f"said:{word}", 0.0) + common * float(np.log1p(count[f"said:{word}"]))

    best = {user: max(sorted({user, *others}), key=worth) for user, others in said_for.items()}
    return {user: word for user, word in best.items() if word != user}


def _form(word: str) -> str:
    return next((e for e in ("ing", "ed", "s") if word.endswith(e) and len(word) >= len(e) + 3), "")


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
    """One more clause at the end: listed with the last one if that is short, else as a sentence of
    its own."""
    last = clauses[-1]
    listing = len(clauses) > 1 and len(last.text.split()) <= SHORT
    listed = listing and clauses[-2].end.strip() in (",", ";", "/")
    end = clauses[-2].end if listed else ", " if listing else ". "
    text = _cased(text, "x" if listing else clauses[0].text)
    return [*clauses[:-1], Clause(last.text, end), Clause(text, last.end.strip() or ".")]
