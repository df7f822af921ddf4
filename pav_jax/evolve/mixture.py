"""A mixture of proposers: each prompt's new rewrites are split among them by share."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence

import numpy as np

from pav_jax.booster.guard import OFF, Guard
from pav_jax.candidates.prompt_text import plain_text
from pav_jax.candidates.rounds import Rewrite
from pav_jax.errors import BadInput
from pav_jax.evolve.config import EvolveConfig
from pav_jax.evolve.proposer import ProposalRequest, Proposer, ScoredRewrite
from pav_jax.records import stable_seed

log = logging.getLogger(__name__)

NO_GUARD = Guard(OFF)


@dataclasses.dataclass(frozen=True)
class MixtureEntry:
    """A proposer with its share of the new rewrites.

    Attributes:
      share: relative to the other entries; 0 switches the proposer off.
      first_round: first round in which the proposer is active.
      last_round: last such round; None for no limit.
    """

    proposer: Proposer
    share: float = 1.0
    first_round: int = 1
    last_round: int | None = None

    def is_active_in(self, round: int) -> bool:
        """Whether the proposer is active in a round."""
        after_last = self.last_round is not None and round > self.last_round
        return self.share > 0 and self.first_round <= round and not after_last


class Mixture:
    """Splits requests among proposers, cleans the rewrites, and requests missing ones again.

    Args:
      entries: at least one proposer with its share.
      max_attempts: maximum number of calls per request.
      max_words: maximum length; longer rewrites are discarded.
      guard: rewrites that do not keep what the prompt asks for are discarded.

    Raises:
      BadInput: there is no entry.
    """

    def __init__(
        self,
        entries: Sequence[MixtureEntry],
        max_attempts: int = EvolveConfig.max_proposal_attempts,
        max_words: int = EvolveConfig.max_words,
        guard: Guard = NO_GUARD,
    ):
        if not entries:
            raise BadInput(
                "proposers: no entry has a share above 0; add an entry or raise a share",
                source="configuration",
                field="proposers",
            )
        self.entries = list(entries)
        self.max_attempts = max_attempts
        self.max_words = max_words
        self.guard = guard

    @classmethod
    def from_proposers(
        cls,
        *proposers: Proposer,
        max_attempts: int = EvolveConfig.max_proposal_attempts,
        max_words: int = EvolveConfig.max_words,
        guard: Guard = NO_GUARD,
    ) -> "Mixture":
        """Make a mixture of proposers with equal shares, active in every round."""
        entries = [MixtureEntry(proposer) for proposer in proposers]
        return cls(entries, max_attempts, max_words, guard)

    def observe(self, rewrites: Sequence[ScoredRewrite]) -> None:
        """Show all proposers the scored rewrites of the earlier rounds."""
        for entry in self.entries:
            entry.proposer.observe(rewrites)

    def propose(self, requests: Sequence[ProposalRequest]) -> list[list[Rewrite]]:
        """Return up to `num_rewrites` rewrites per request, each on one line and new."""
        rewrites: list[dict[str, str]] = [{} for _ in requests]  # text -> name of the proposer
        for attempt in range(self.max_attempts):
            for index, counts in self._split_requests(requests, rewrites, attempt).items():
                self._request_rewrites(index, counts, attempt, requests, rewrites)
        requested = sum(request.num_rewrites for request in requests)
        missing = requested - sum(map(len, rewrites))
        if missing:
            log.warning(
                "round %d: %d of %d rewrites are missing after %d attempts; continuing without"
                " them",
                requests[0].round,
                missing,
                requested,
                self.max_attempts,
            )
        return [[(name, text) for text, name in texts.items()] for texts in rewrites]

    def _request_rewrites(
        self,
        index: int,
        counts: Mapping[int, int],
        attempt: int,
        requests: Sequence[ProposalRequest],
        rewrites: list[dict[str, str]],
    ) -> None:
        """Request rewrites from proposer `index` and add the usable ones to `rewrites`.

        Args:
          counts: index of a request -> number of rewrites to request.
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

        The first attempt splits by share. Each later attempt requests all missing rewrites from one
        proposer, in rotation.
        """
        split: dict[int, dict[int, int]] = {}
        for i, request in enumerate(requests):
            missing = request.num_rewrites - len(rewrites[i])
            if missing <= 0:
                continue
            active = [
                k for k, entry in enumerate(self.entries) if entry.is_active_in(request.round)
            ]
            if not active:
                raise BadInput(
                    f"proposers: no entry is active in round {request.round}; change first_round or"
                    " last_round of an entry",
                    source="configuration",
                    field="proposers",
                )
            counts = [0] * len(active)
            if attempt == 0:
                shares = [self.entries[k].share for k in active]
                counts = split_by_share(missing, shares, stable_seed(request.seed, "share"))
            else:
                counts[(attempt + request.seed) % len(active)] = missing
            for k, count in zip(active, counts, strict=True):
                if count:
                    split.setdefault(k, {})[i] = count
        return split

    def _usable(self, request: ProposalRequest, texts: Sequence[str]) -> list[str]:
        """Return the distinct texts that are new, faithful, not empty and not too long."""
        usable: dict[str, None] = {}
        for text in map(plain_text, self.guard.faithful(request.prompt, texts)):
            is_new = text not in request.tried and text != request.prompt
            if text and is_new and len(text.split()) <= self.max_words:
                usable[text] = None
        return list(usable)[: request.num_rewrites]


def split_by_share(count: int, shares: Sequence[float], seed: int) -> list[int]:
    """Split `count` by share; the fractional parts are the odds of getting the remainder."""
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
