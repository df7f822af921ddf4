"""One round: rewrites are proposed for some prompts while videos are made for others."""

import collections
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax

from pav_jax.candidates.candidate_store import PendingCandidate
from pav_jax.candidates.pool import CandidatePool
from pav_jax.candidates.preview import PreviewFilter
from pav_jax.errors import BadInput
from pav_jax.parallel import processes
from pav_jax.records import Proposal
from pav_jax.storage.records import SegmentWriter, read_segments

log = logging.getLogger(__name__)

Rewrite = tuple[str, str]  # (name of the proposer, text)
Propose = Callable[[Sequence[str]], Sequence[Sequence[Rewrite]]]


def run_round(
    pool: CandidatePool,
    prompts: Sequence[str],
    round: int,
    propose: Propose,
    *,
    parents: Callable[[str], tuple[str, ...]] = lambda prompt: (),
    proposal_batch_size: int | None = None,
    on_batch: Callable[[int], None] = lambda settled: None,
    preview_filter: PreviewFilter | None = None,
) -> None:
    """Propose rewrites of every prompt and score their videos.

    A proposal is recorded before its videos are made (`<pool>/proposals`), so that a restart
    continues with the same rewrites even if the proposer would answer differently. One thread
    proposes, in batches, ahead of the generator. Every process takes its share of the prompts, with
    models of its own; when this returns, all processes are done.

    Args:
      propose: maps some prompts to the rewrites of each, possibly fewer than wanted.
      parents: maps a prompt to the keys of the candidates that its proposer was shown.
      proposal_batch_size: prompts per call of `propose`; None takes twice the pool's batch size.
      on_batch: called with the number of candidates settled since.
      preview_filter: leaves out rewrites that are not worth a full video.

    Raises:
      BadInput: none of the first proposals holds a rewrite.
    """
    proposals = _Proposals(pool, round, propose, parents)
    prompts = processes.shard_for_process(prompts)
    size = proposal_batch_size or 2 * pool.batch_size
    executor = ThreadPoolExecutor(1, thread_name_prefix="proposals")
    try:
        futures = collections.deque(
            executor.submit(proposals.of, prompts[start : start + size])
            for start in range(0, len(prompts), size)
        )
        pending = _pending_candidates(futures, round, preview_filter)
        for settled in pool.score_round(pending, round):
            on_batch(settled)
    finally:
        # After a failure nothing more is proposed. What a running call returns is still recorded.
        executor.shutdown(wait=True, cancel_futures=True)
    pool.wait_for_processes(f"{pool.folder.name}, round {round}")


def _pending_candidates(
    futures: collections.deque[Future[list[Proposal]]],
    round: int,
    preview_filter: PreviewFilter | None,
) -> Iterator[PendingCandidate]:
    """Yield the candidates of each batch of proposals as soon as it is there."""
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
    """The proposals of a round, each asked for once and recorded."""

    def __init__(
        self,
        pool: CandidatePool,
        round: int,
        propose: Propose,
        parents: Callable[[str], tuple[str, ...]],
    ):
        folder = pool.folder / "proposals"
        recorded = read_segments(folder, Proposal)
        self.round = round
        self._propose = propose
        self._parents = parents
        self._recorded = {p.prompt: p for p in recorded if p.round == round}
        # whether the proposers have given anything yet
        self._have_worked = any(p.refined for p in recorded if p.round)
        self._writer = SegmentWriter(folder, jax.process_index())

    def of(self, prompts: Sequence[str]) -> list[Proposal]:
        """Return the proposals for some prompts, making and recording those that are missing."""
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
        self._have_worked = self._have_worked or any(p.refined for p in made.values())
        if made and not self._have_worked:  # not recorded, so that the next run tries again
            raise BadInput(
                f"proposers: no usable rewrite for any of the first {len(made)} prompts; see the"
                " warnings in the log",
                source="configuration",
                field="proposers",
            )
        self._writer.write(list(made.values()))
        return [self._recorded.get(prompt) or made[prompt] for prompt in prompts]


class RoundProgress:
    """Progress of a stage over all its rounds: a progress bar, and the rate for the log.

    Args:
      stage: the name beside the bar.
      total: candidates of all rounds.
      progress: a `rich.progress.Progress` or None.
    """

    def __init__(self, stage: str, total: int, pool: CandidatePool, progress: Any = None):
        self.pool = pool
        self.total = total
        self.done = 0
        self._progress = progress
        self._task = progress.add_task(stage, total=total) if progress else None

    def advance(self, settled: int) -> None:
        """Count candidates that were scored or recorded already."""
        self.done += settled
        if self._progress:
            self._progress.update(self._task, completed=min(self.done, self.total))

    def advance_to(self, done: int) -> None:
        """Count candidates that no proposer wrote as done."""
        self.advance(max(done - self.done, 0))

    def rate(self) -> str:
        """Return the videos per second of this process and the time left, for a log line."""
        if not self.pool.videos_made:
            return "all videos cached"
        speed = self.pool.videos_made / self.pool.seconds
        left = max(self.total - self.done, 0) / speed
        return f"{speed:.2f} videos/s, {left:.0f} s left"
