"""Who writes the rewrites: the protocol, a mixture of several writers, and building it from a
configuration."""

import dataclasses
import importlib
import inspect
import logging
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from pav_jax.candidates.prompt_text import plain_text
from pav_jax.errors import BadInput
from pav_jax.records import stable_seed

log = logging.getLogger(__name__)

Faith = Callable[
    [str, str], float
]  # (the user's prompt, a rewrite) -> share of the user's words kept, 0 to 1

KINDS = {
    "chat": ("pav_jax.evolve.chat_proposer", "ChatProposer"),
    "local": ("pav_jax.evolve.local_proposer", "LocalProposer"),
    "lexicon": ("pav_jax.evolve.lexicon_proposer", "LexiconProposer"),
}
MAX_WORDS = 200  # six sentences fit easily; longer than this is not a prompt


@dataclasses.dataclass(frozen=True)
class Scored:
    """A rewrite of the pool with its weighted sum; minus infinity where it may not be selected."""

    prompt: str
    refined: str
    overall: float
    scores: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class ProposalRequest:
    """Asks for `n` new rewrites of `prompt`.

    `history` holds the user's own words first, then the best rewrites, best first, each with its
    scores; `taken` are texts already tried, which are of no use again.
    """

    prompt: str
    history: tuple[tuple[str, Mapping[str, float]], ...]
    n: int
    seed: int
    round: int = 1
    taken: frozenset[str] = frozenset()


class Proposer:
    """Writes rewrites. What it writes for a request depends on that request and on what was
    observed, on no other."""

    name = "proposer"

    def observe(self, scored: Sequence[Scored]) -> None:
        """Told before each round all that was scored in earlier rounds, over all prompts."""

    def propose(self, requests: Sequence[ProposalRequest]) -> list[list[str]]:
        """For each request up to `n` rewrites; fewer, or none, where the writer failed."""
        raise TypeError(f"{type(self).__name__} must define propose")

    def __call__(self, prompts: Sequence[str], seed: int = 0) -> list[str]:
        """One rewrite of each prompt, nothing known but its words; the prompt itself where there is
        none."""
        requests = [ProposalRequest(p, ((p, {}),), 1, stable_seed(seed, p)) for p in prompts]
        return [
            texts[0] if texts else p
            for p, texts in zip(prompts, self.propose(requests), strict=True)
        ]


@dataclasses.dataclass(frozen=True)
class Share:
    """A proposer's part in a mixture: its weight, and the rounds it works in (0: no last one)."""

    proposer: Proposer
    share: float = 1.0
    first_round: int = 1
    last_round: int = 0

    def works_in(self, round: int) -> bool:
        return (
            self.share > 0
            and self.first_round <= round
            and (not self.last_round or round <= self.last_round)
        )


class Mixture:
    """Splits each request among several proposers, cleans what they write, and asks again for what
    is missing."""

    def __init__(self, shares: Sequence[Share], attempts: int = 2, max_words: int = MAX_WORDS):
        if not shares:
            raise BadInput(
                "proposers: none is configured; give at least one of " + ", ".join(KINDS)
            )
        self.shares, self.attempts, self.max_words = list(shares), attempts, max_words

    @classmethod
    def of(cls, proposer: Proposer) -> "Mixture":
        return cls([Share(proposer)])

    def observe(self, scored: Sequence[Scored]) -> None:
        for share in self.shares:
            share.proposer.observe(scored)

    def named(self, requests: Sequence[ProposalRequest]) -> list[list[tuple[str, str]]]:
        """For each request up to `n` pairs (proposer, rewrite): on one line, not empty, not too
        long, all new."""
        got: list[dict[str, str]] = [{} for _ in requests]  # rewrite -> proposer
        for attempt in range(self.attempts):
            for k, rows in self._plan(requests, got, attempt).items():
                proposer = self.shares[k].proposer
                asked = [
                    dataclasses.replace(
                        requests[i],
                        n=n,
                        taken=requests[i].taken | got[i].keys(),
                        seed=stable_seed(requests[i].seed, proposer.name, k, attempt),
                    )
                    for i, n in rows
                ]
                for request, (i, _), texts in zip(
                    asked, rows, proposer.propose(asked), strict=True
                ):
                    got[i] |= dict.fromkeys(self._clean(request, texts), proposer.name)
        if missing := sum(r.n - len(g) for r, g in zip(requests, got, strict=True)):
            log.warning(
                "round %d: %d of %d rewrites are missing after %d attempts; going on without them",
                requests[0].round,
                missing,
                sum(r.n for r in requests),
                self.attempts,
            )
        return [[(name, text) for text, name in g.items()] for g in got]

    def _plan(self, requests, got, attempt: int) -> dict[int, list[tuple[int, int]]]:
        """Proposer's place -> [(request's place, how many)]: by shares first, then each in turn for
        what is missing."""
        plan: dict[int, list[tuple[int, int]]] = {}
        for i, request in enumerate(requests):
            missing = request.n - len(got[i])
            able = [k for k, share in enumerate(self.shares) if share.works_in(request.round)]
            if missing <= 0:
                continue
            if not able:
                raise BadInput(
                    f"proposers: none works in round {request.round}; widen first_round or"
                    " last_round"
                )
            counts = [0] * len(able)
            if attempt == 0:
                counts = _split(
                    missing,
                    [self.shares[k].share for k in able],
                    stable_seed(request.seed, "share"),
                )
            else:
                counts[(attempt + request.seed) % len(able)] = missing
            for k, n in zip(able, counts, strict=True):
                if n:
                    plan.setdefault(k, []).append((i, n))
        return plan

    def _clean(self, request: ProposalRequest, texts: Sequence[str]) -> list[str]:
        kept: dict[str, None] = {}
        for text in map(plain_text, texts):
            if (
                text
                and text not in request.taken
                and text != request.prompt
                and len(text.split()) <= self.max_words
            ):
                kept[text] = None
        return list(kept)[: request.n]


def _split(n: int, shares: Sequence[float], seed: int) -> list[int]:
    """`n` pieces by share; whole parts first, the rest drawn by the fractions."""
    quota = n * np.asarray(shares, np.float64) / np.sum(shares)
    counts = np.floor(quota + 1e-9).astype(int)
    left, fraction = n - counts.sum(), np.clip(quota - counts, 0, None)
    if left:
        drawn = np.random.default_rng(seed).choice(
            len(counts), left, replace=False, p=fraction / fraction.sum()
        )
        counts[drawn] += 1
    return counts.tolist()


def make_proposers(config, language_model=None, faith: Faith | None = None) -> Mixture:
    """Builds what `config.proposers` lists: a mapping of name -> entry, or a sequence of entries.

    An entry has `kind` (chat, local, lexicon), may have `share` (0: off), `first_round`,
    `last_round`, and holds the arguments of that kind's class. Reads `evolve.attempts` and
    `evolve.max_words` too.

    Args:
      faith: see `rewards.faithfulness.faithfulness`; the lexicon proposer keeps to it.

    Raises:
      BadInput: an unknown kind or argument, or a local proposer without a language model.
    """
    entries = config.proposers
    named = entries.items() if hasattr(entries, "items") else [(e["kind"], e) for e in entries]
    shares = [
        _make(name, dict(entry.items()), language_model, faith)
        for name, entry in named
        if entry.get("share", 1.0) > 0
    ]
    options = config.get("evolve", {})
    return Mixture(shares, options.get("attempts", 2), options.get("max_words", MAX_WORDS))


def chat_proposers(config, names: Sequence[str]) -> dict[str, Proposer]:
    """Those of `names` that are chat entries of `config.proposers`, whatever their share, by
    name."""
    entries = config.proposers
    chats = [n for n in names if n in entries and entries[n].get("kind", n) == "chat"]
    return {name: _make(name, dict(entries[name].items()), None, None).proposer for name in chats}


def _make(name: str, entry: dict, language_model, faith) -> Share:
    kind = entry.pop("kind", name)
    if kind not in KINDS:
        raise BadInput(f"proposers.{name}.kind={kind!r}: choose one of {', '.join(KINDS)}")
    part = {key: entry.pop(key) for key in ("share", "first_round", "last_round") if key in entry}
    module, cls = KINDS[kind]
    maker = getattr(importlib.import_module(module), cls)  # only what is used is imported
    known = inspect.signature(maker).parameters
    given = {"name": name} | {
        k: v.to_dict() if hasattr(v, "to_dict") else v for k, v in entry.items()
    }
    for key, value in (("language_model", language_model), ("faith", faith)):
        if key in known:
            given[key] = value
    if "language_model" in known and language_model is None:
        raise BadInput(f"proposers.{name}: a local proposer needs a rewriter; set rewriter.path")
    if unknown := sorted(given.keys() - known.keys()):
        raise BadInput(f"proposers.{name}.{unknown[0]}: unknown; {cls} takes {', '.join(known)}")
    needed = [
        k for k, p in known.items() if p.default is inspect.Parameter.empty and k not in given
    ]
    if needed:
        raise BadInput(f"proposers.{name}.{needed[0]}: missing")
    return Share(maker(**given), **part)
