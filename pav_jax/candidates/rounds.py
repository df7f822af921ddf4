"""One round: rewrites are proposed for some prompts while videos are made for others."""

import collections
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import jax

from pav_jax.candidates.preview import Screen
from pav_jax.candidates.store import Draft, Pool
from pav_jax.errors import BadInput
from pav_jax.parallel import processes
from pav_jax.records import Proposal
from pav_jax.storage.records import SegmentWriter, read_segments

log = logging.getLogger(__name__)

Named = tuple[str, str]  # (proposer, rewrite)
Propose = Callable[[Sequence[str]], Sequence[Sequence[Named]]]


def run_round(
    pool: Pool,
    prompts: Sequence[str],
    round: int,
    propose: Propose,
    *,
    parents: Callable[[str], tuple[str, ...]] = lambda prompt: (),
    chunk: int = 0,
    on_batch: Callable[[int], None] = lambda drafts: None,
    screen: Screen | None = None,
) -> None:
    """Proposes for every prompt and scores what was proposed; both are on disk as soon as they
    exist.

    A proposal is written down before its videos are made (`<pool>/proposals`), so a restart carries
    on from the same rewrites even where the proposer would answer differently. One thread proposes,
    in chunks, ahead of the generator. Of many processes each takes its share of the prompts, with
    models of its own; when this returns, all are done.

    Args:
      propose: for some prompts, the rewrites of each, with who wrote them; may return fewer than
        asked.
      chunk: how many prompts are proposed for at once; 0 takes twice the generator's batch.
      on_batch: told how many drafts each batch settled.
      screen: leaves out those that are not worth a video.
    """
    folder = pool.folder / "proposals"
    every = read_segments(folder, Proposal)
    known = {p.prompt: p for p in every if p.round == round}
    worked = any(
        p.refined for p in every if p.round
    )  # this pool's proposers have been seen to work
    writer = SegmentWriter(folder, jax.process_index())
    prompts = processes.shard_for_process(prompts)
    size = chunk or 2 * pool.batch
    chunks = [prompts[i : i + size] for i in range(0, len(prompts), size)]

    def settle(some: Sequence[str]) -> list[Proposal]:
        nonlocal worked
        new = [p for p in some if p not in known]
        answers = propose(new) if new else []
        made = {
            p: Proposal(
                f"{round}:{p}",
                p,
                round,
                tuple(text for _, text in named),
                tuple(n for n, _ in named),
                parents(p),
            )
            for p, named in zip(new, answers, strict=True)
        }
        worked = worked or any(p.refined for p in made.values())
        if made and not worked:  # not written: to be asked again once the proposer is mended
            raise BadInput(
                f"proposers: no usable rewrite for any of the first {len(made)} prompts; see the"
                " warnings"
            )
        writer.write(list(made.values()))
        return [known.get(p) or made[p] for p in some]

    executor = ThreadPoolExecutor(1, thread_name_prefix="proposals")
    try:
        waiting = collections.deque(executor.submit(settle, some) for some in chunks)

        def drafts() -> Iterator[Draft]:
            while waiting:
                some = [
                    Draft(p.prompt, text, round, i, p.parents, name)
                    for p in waiting.popleft().result()
                    for i, (name, text) in enumerate(zip(p.proposers, p.refined, strict=True))
                ]
                yield from some if screen is None else screen.survivors(some, round)

        for settled in pool.score(drafts(), round):
            on_batch(settled)
    finally:
        # after a failure nothing more is proposed; what a running call returns is still written
        # down
        executor.shutdown(wait=True, cancel_futures=True)
    pool.gather(f"{pool.folder.name}, round {round}")


class Meter:
    """Progress of a stage over all its rounds: a rich bar where there is one, and what the log line
    of a round says."""

    def __init__(self, stage: str, total: int, pool: Pool, progress=None):
        self.pool, self.total, self.done, self.progress = pool, total, 0, progress
        self.task = progress.add_task(stage, total=total) if progress else None
        self.started = time.monotonic()

    def advance(self, drafts: int) -> None:
        self.done += drafts
        if self.progress:
            self.progress.update(self.task, completed=min(self.done, self.total))

    def settle(self, done: int) -> None:
        """Counts drafts that never came (a proposer gave too few) as done."""
        self.advance(max(done - self.done, 0))

    def rate(self) -> str:
        """Videos per second of this process, and the time left at that rate."""
        speed = self.pool.made / self.pool.seconds if self.pool.seconds else 0.0
        left = (
            f"{max(self.total - self.done, 0) / speed:.0f} s left"
            if speed
            else "nothing was left to make"
        )
        return f"{speed:.2f} videos/s, {left}"
