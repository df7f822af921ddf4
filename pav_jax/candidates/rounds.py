"""One round: propose rewrites of some prompts while the generator makes the videos of others."""

import collections
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import jax

from pav_jax.candidates.candidate_store import PendingCandidate
from pav_jax.candidates.pool import CandidatePool
from pav_jax.candidates.preview import PreviewFilter
from pav_jax.errors import BadInput
from pav_jax.parallel import processes
from pav_jax.records import Proposal
from pav_jax.storage.records import SegmentFolder

Rewrite = tuple[str, str]  # (name of the proposer, text of the rewrite)
Propose = Callable[[Sequence[str]], Sequence[Sequence[Rewrite]]]


def run_round(
    pool: CandidatePool,
    prompts: Sequence[str],
    round: int,
    propose: Propose,
    *,
    parents: Callable[[str], tuple[str, ...]] = lambda prompt: (),
    proposal_batch_size: int | None = None,
    on_batch: Callable[[int], None] = lambda num_finished: None,
    preview_filter: PreviewFilter | None = None,
) -> None:
    """Propose rewrites of every prompt and score their videos.

    A proposal is recorded before its videos are made (`<pool>/proposals`), so that a restart
    continues with the same rewrites even if the proposer is not deterministic. A background thread
    calls `propose` batch by batch, ahead of the generator. Every process handles its own share of
    the prompts with its own models; this function returns when all processes are done.

    Args:
      propose: maps a batch of prompts to the rewrites of each, possibly fewer than requested.
      parents: maps a prompt to the keys of the candidates shown to its proposer.
      proposal_batch_size: prompts per call of `propose`; None takes twice the pool's batch size.
      on_batch: called with the number of candidates finished since the previous call.
      preview_filter: drops rewrites that are not worth a full video.

    Raises:
      BadInput: the first batch yields no usable rewrite.
    """
    proposals = _Proposals(pool, round, propose, parents)
    prompts = processes.shard_for_process(prompts)
    size = proposal_batch_size or 2 * pool.batch_size
    executor = ThreadPoolExecutor(1, thread_name_prefix="proposals")
    try:
        futures = collections.deque(
            executor.submit(proposals.get_or_create, prompts[start : start + size])
            for start in range(0, len(prompts), size)
        )
        pending = _pending_candidates(futures, round, preview_filter)
        for num_finished in pool.score_round(pending, round):
            on_batch(num_finished)
    finally:
        # After a failure, batches that wait are cancelled; the running one is still recorded.
        executor.shutdown(wait=True, cancel_futures=True)
    pool.wait_for_processes(f"{pool.folder.name}, round {round}")


def _pending_candidates(
    futures: collections.deque[Future[list[Proposal]]],
    round: int,
    preview_filter: PreviewFilter | None,
) -> Iterator[PendingCandidate]:
    """Yield the candidates of each batch of proposals as soon as it is ready."""
    while futures:
        pending = [
            PendingCandidate(proposal.prompt, text, round, index, proposal.parents, name)
            for proposal in futures.popleft().result()
            for index, (name, text) in enumerate(
                zip(proposal.proposers, proposal.refined, strict=True)
            )
        ]
        yield from pending if preview_filter is None else preview_filter.select(pending, round)


class _Proposals:
    """The proposals of a round: each is made once and recorded."""

    def __init__(
        self,
        pool: CandidatePool,
        round: int,
        propose: Propose,
        parents: Callable[[str], tuple[str, ...]],
    ):
        self._segments = SegmentFolder(pool.folder / "proposals", Proposal, jax.process_index())
        recorded = self._segments.read()
        self.round = round
        self._propose = propose
        self._parents = parents
        self._recorded = {p.prompt: p for p in recorded if p.round == round}
        # Round 0 does not count: it holds the users' own prompts, not the rewrites of a proposer.
        self._any_rewrite_seen = any(p.refined for p in recorded if p.round)

    def get_or_create(self, prompts: Sequence[str]) -> list[Proposal]:
        """Return the proposals for a batch of prompts; make and record those that are missing."""
        missing = [p for p in prompts if p not in self._recorded]
        rewrites = self._propose(missing) if missing else []
        made = {
            prompt: Proposal(
                key=f"{self.round}:{prompt}",
                prompt=prompt,
                round=self.round,
                refined=tuple(text for _, text in named),
                proposers=tuple(name for name, _ in named),
                parents=self._parents(prompt),
            )
            for prompt, named in zip(missing, rewrites, strict=True)
        }
        self._any_rewrite_seen = self._any_rewrite_seen or any(p.refined for p in made.values())
        if made and not self._any_rewrite_seen:
            # These proposals are not recorded, so that the next run tries again.
            raise BadInput(
                f"proposers: no usable rewrite for any of the first {len(made)} prompts; see the"
                " warnings in the log",
                source="configuration",
                field="proposers",
            )
        self._segments.write(list(made.values()))
        return [self._recorded.get(prompt) or made[prompt] for prompt in prompts]
