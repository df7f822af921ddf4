"""Cheap first: every rewrite gets a draft video (fewer steps, frames or pixels), and only the best
of a prompt's round are made in full.

Some prompts are audited: all of their rewrites are made in full as well, so that `drafts.json` can
say how well drafts rank, and how often the best rewrite was screened out.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from scipy import stats

from pav_jax.candidates.scoring import overall_scores
from pav_jax.candidates.store import Draft, Pool
from pav_jax.errors import BadInput
from pav_jax.parallel import processes
from pav_jax.records import stable_seed
from pav_jax.storage.json_files import write_json
from pav_jax.video.generator import Generator

FILE, FOLDER = "drafts.json", "drafts"
SETTINGS = ("num_inference_steps", "num_frames", "height", "width")


class Screen:
    """Who of a round's rewrites is worth a full video.

    Args:
      drafts: a pool whose generator makes the drafts.
      keep: share of a prompt's rewrites of a round that survive, rounded up.
      audit: share of prompts of which all survive.
    """

    def __init__(self, drafts: Pool, keep: float, audit: float):
        if not 0 < keep < 1:
            raise BadInput(
                f"evolve.draft.keep={keep}: a share above 0 and below 1; 1 makes no drafts"
            )
        if not 0 <= audit <= 1:
            raise BadInput(f"evolve.draft.audit={audit}: a share from 0 to 1")
        self.drafts, self.keep, self.audit = drafts, keep, audit

    @classmethod
    def from_config(
        cls, config: Any, generator: Any, suite: Any, workdir: epath.Path
    ) -> "Screen | None":
        """None where `evolve.draft.keep` is 1.

        Raises:
          BadInput: nothing makes the drafts cheaper, this generator cannot change its settings, or
            drafts of one frame are to be judged by how frames follow each other.
        """
        options = config.evolve.get("draft")
        if options is None or options.keep == 1:
            return None
        settings = {name: options[name] for name in SETTINGS if options.get(name) is not None}
        if not settings:
            raise BadInput(
                f"evolve.draft: set some of {', '.join(SETTINGS)}; as it is, drafts cost what"
                " videos cost"
            )
        if "num_frames" in settings:
            suite.check_frames(settings["num_frames"])  # before a draft is made in vain
        try:
            cheaper = generator.with_settings(**settings)
        except BadInput as error:
            raise BadInput(
                f"evolve.draft: {error}; set evolve.draft.keep=1 for no drafts",
                source=error.source,
                field=error.field,
            ) from error
        pool = Pool(
            cheaper,
            suite,
            workdir / FOLDER,
            workdir,
            seed=config.seed,
            batch=config.generator.batch_size,
            weights=config.evolve.get("weights"),
        )
        return cls(pool, options.keep, options.audit)

    def is_audited(self, prompt: str) -> bool:
        return stable_seed("audit of drafts", prompt) < self.audit * 2**31

    def survivors(self, proposed: Sequence[Draft], round: int) -> list[Draft]:
        """Makes and scores the drafts of `proposed`, whole rounds of some prompts; those to be made
        in full, in the order given. What it answers depends on nothing but the drafts' scores."""
        for _ in self.drafts.score(iter(proposed), round):
            pass
        values = self._values()
        kept: list[Draft] = []
        for prompt in dict.fromkeys(draft.prompt for draft in proposed):
            rows = [draft for draft in proposed if draft.prompt == prompt]
            if not self.is_audited(prompt):
                best = sorted(rows, key=lambda d: (-values[d.prompt, d.refined], d.index))
                rows = sorted(best[: math.ceil(self.keep * len(rows))], key=lambda d: d.index)
            kept += rows
        return kept

    def _values(self) -> dict[tuple[str, str], float]:
        made = self.drafts.candidates
        return {
            (c.prompt, c.refined): float(v)
            for c, v in zip(made, overall_scores(made, self.drafts.weights), strict=True)
        }

    # ------------------------------------------------------------------------------------- how well

    def report(self, pool: Pool, workdir: epath.Path) -> dict[str, Any]:
        """Writes `drafts.json`: what drafts are worth by the audited prompts, and what they
        saved."""
        self.drafts.gather("drafts")
        made = [c for c in pool.candidates if c.round > 0]
        values, drafted = overall_scores(made, pool.weights), self._values()
        audited: dict[tuple[str, int], list[tuple[float, float]]] = {}
        for c, value in zip(made, values, strict=True):
            if self.is_audited(c.prompt) and (c.prompt, c.refined) in drafted:
                audited.setdefault((c.prompt, c.round), []).append(
                    (drafted[c.prompt, c.refined], float(value))
                )
        found = judge(audited.values(), self.keep)
        share = relative_cost(self.drafts.generator, pool.generator)
        result = {
            "keep": self.keep,
            "cost of a draft": share,
            "drafts": len(drafted),
            "videos": len(made),
            "saved": saved(len(drafted), len(made), share),
            **found,
        }
        processes.run_on_first_process("drafts.json", lambda: write_json(workdir / FILE, result))
        return result


def judge(
    audited: Iterable[Sequence[tuple[float, float]]], keep: float
) -> dict[str, float | int | None]:
    """What drafts say about full videos.

    Args:
      audited: of each prompt and round, (draft's overall, full video's overall) per rewrite. A
        draft that failed, which is minus infinity, ranks last; a rewrite whose full video failed is
        left out.

    Returns:
      how many such groups of two and more there are, the mean rank correlation within them, the
      share of groups whose best rewrite would have survived, and the mean loss of overall where it
      would not, over all groups.
    """
    correlations, survived, losses = [], [], []
    for group in audited:
        draft, full = np.asarray([pair for pair in group if np.isfinite(pair[1])]).reshape(-1, 2).T
        if len(draft) < 2:
            continue
        if len(set(draft)) > 1 and len(set(full)) > 1:
            correlations.append(stats.spearmanr(draft, full).statistic)
        chosen = np.argsort(-draft, kind="stable")[: math.ceil(keep * len(draft))]
        survived.append(full[chosen].max() >= full.max())
        losses.append(full.max() - full[chosen].max())
    mean = lambda values: float(np.mean(values)) if values else None  # noqa: E731
    return {
        "audited": len(survived),
        "rank correlation": mean(correlations),
        "best survives": mean(survived),
        "loss of the best": mean(losses),
    }


def relative_cost(draft: Generator, full: Generator) -> float | None:
    """Steps x frames x pixels of a draft over those of a video; None where a generator does not
    say. Attention makes the true share smaller, encoding and scoring make it larger."""
    draft_cost = draft.cost()
    full_cost = full.cost()
    return None if draft_cost is None or full_cost is None else draft_cost / full_cost


def saved(drafts: int, videos: int, share: float | None) -> float | None:
    """The share of the generator's work that was saved against making every drafted rewrite in
    full."""
    return None if share is None or not drafts else 1 - (videos + share * drafts) / drafts


def said(result: Mapping[str, Any]) -> str:
    """One line for the log and the report."""
    text = lambda value, form: "-" if value is None else format(value, form)  # noqa: E731
    made = (
        f"{result['videos']} of {result['drafts']} rewrites made in full,"
        f" {text(result['saved'], '.0%')} of the work"
    )
    if not result["audited"]:
        return f"drafts: {made} saved; none was audited"
    return (
        f"drafts: {made} saved; by {result['audited']} audited groups ranks correlate at"
        f" {text(result['rank correlation'], '.2f')}, and the best survives in"
        f" {result['best survives']:.0%}"
    )
