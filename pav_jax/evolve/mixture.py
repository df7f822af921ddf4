"""A mixture of proposers: each prompt's new rewrites are split among them by share."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence

import numpy as np

from pav_jax.candidates.prompt_text import plain_text
from pav_jax.candidates.rounds import Rewrite
from pav_jax.errors import BadInput
from pav_jax.evolve.proposer import ProposalRequest, Proposer, ScoredRewrite
from pav_jax.records import stable_seed

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 2
MAX_WORDS = 200  # six sentences are shorter


@dataclasses.dataclass(frozen=True)
class MixtureEntry:
    """A proposer with its share of the new rewrites.

    Attributes:
      share: relative to the other entries; 0 switches the proposer off.
      first_round, last_round: the rounds in which it works; None for the last one.
    """

    proposer: Proposer
    share: float = 1.0
    first_round: int = 1
    last_round: int | None = None

    def works_in(self, round: int) -> bool:
        """Whether the proposer works in a round."""
        after_last = self.last_round is not None and round > self.last_round
        return self.share > 0 and self.first_round <= round and not after_last


class Mixture:
    """Splits requests among proposers, cleans their rewrites, and asks again for missing ones.

    Args:
      entries: at least one.
      max_attempts: calls for the rewrites of a request.
      max_words: longer rewrites are discarded.

    Raises:
      BadInput: there is no entry.
    """

    def __init__(
        self,
        entries: Sequence[MixtureEntry],
        max_attempts: int = MAX_ATTEMPTS,
        max_words: int = MAX_WORDS,
    ):
        if not entries:
            raise BadInput(
                "proposers: none has a share; add an entry, or set a share above 0",
                source="configuration",
                field="proposers",
            )
        self.entries = list(entries)
        self.max_attempts = max_attempts
        self.max_words = max_words

    @classmethod
    def from_proposers(cls, *proposers: Proposer) -> "Mixture":
        """Make a mixture of proposers in equal shares, all of which work in every round."""
        return cls([MixtureEntry(proposer) for proposer in proposers])

    def observe(self, rewrites: Sequence[ScoredRewrite]) -> None:
        """Show all proposers the scored rewrites of the earlier rounds."""
        for entry in self.entries:
            entry.proposer.observe(rewrites)

    def propose(self, requests: Sequence[ProposalRequest]) -> list[list[Rewrite]]:
        """Return up to `num_rewrites` rewrites per request, each on one line and new."""
        rewrites: list[dict[str, str]] = [{} for _ in requests]  # text -> name of the proposer
        for attempt in range(self.max_attempts):
            for index, counts in self._split_requests(requests, rewrites, attempt).items():
                self._ask(index, counts, attempt, requests, rewrites)
        wanted = sum(request.num_rewrites for request in requests)
        missing = wanted - sum(map(len, rewrites))
        if missing:
            log.warning(
                "round %d: %d of %d rewrites are missing after %d attempts; going on without them",
                requests[0].round,
                missing,
                wanted,
                self.max_attempts,
            )
        return [[(name, text) for text, name in texts.items()] for texts in rewrites]

    def _ask(
        self,
        index: int,
        counts: Mapping[int, int],
        attempt: int,
        requests: Sequence[ProposalRequest],
        rewrites: list[dict[str, str]],
    ) -> None:
        """Ask proposer `index` for rewrites and add the usable ones to `rewrites`.

        Args:
          counts: index of a request -> number of rewrites to ask for.
        """
        proposer = self.entries[index].proposer
        parts = [
            dataclasses.replace(
                requests[i],
                num_rewrites=count,
                tried=requests[i].tried | rewrites[i].keys(),
                seed=stable_seed(requests[i].seed, proposer.name, index, attempt),
            )
            for i, count in counts.items()
        ]
        for i, part, texts in zip(counts, parts, proposer.propose(parts), strict=True):
            rewrites[i] |= dict.fromkeys(self._usable(part, texts), proposer.name)

    def _split_requests(
        self,
        requests: Sequence[ProposalRequest],
        rewrites: Sequence[Mapping[str, str]],
        attempt: int,
    ) -> dict[int, dict[int, int]]:
        """Return index of a proposer -> index of a request -> number of rewrites.

        The first attempt splits by share; later ones give what is missing to one proposer in turn.
        """
        split: dict[int, dict[int, int]] = {}
        for i, request in enumerate(requests):
            missing = request.num_rewrites - len(rewrites[i])
            if missing <= 0:
                continue
            working = [k for k, entry in enumerate(self.entries) if entry.works_in(request.round)]
            if not working:
                raise BadInput(
                    f"proposers: none works in round {request.round}; change first_round or"
                    " last_round of an entry",
                    source="configuration",
                    field="proposers",
                )
            counts = [0] * len(working)
            if attempt == 0:
                shares = [self.entries[k].share for k in working]
                counts = split_by_share(missing, shares, stable_seed(request.seed, "share"))
            else:
                counts[(attempt + request.seed) % len(working)] = missing
            for k, count in zip(working, counts, strict=True):
                if count:
                    split.setdefault(k, {})[i] = count
        return split

    def _usable(self, request: ProposalRequest, texts: Sequence[str]) -> list[str]:
        """Return the distinct texts that are new, not empty and not too long."""
        usable: dict[str, None] = {}
        for text in map(plain_text, texts):
            is_new = text not in request.tried and text != request.prompt
            if text and is_new and len(text.split()) <= self.max_words:
                usable[text] = None
        return list(usable)[: request.num_rewrites]


def split_by_share(count: int, shares: Sequence[float], seed: int) -> list[int]:
    """Split `count` by share: the integer parts first, the remainder drawn by the fractions."""
    quota = count * np.asarray(shares, np.float64) / np.sum(shares)
    counts = np.floor(quota + 1e-9).astype(int)  # vocabulary: ignore
    remainder = count - counts.sum()
    if remainder:
        fraction = np.clip(quota - counts, 0, None)
        drawn = np.random.default_rng(seed).choice(
            len(counts), remainder, replace=False, p=fraction / fraction.sum()
        )
        counts[drawn] += 1
    return counts.tolist()
