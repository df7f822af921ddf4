"""Previews: cheap videos that decide which rewrites get a full video.

A preview has fewer denoising steps, frames or pixels. Of each prompt's rewrites of a round, only
those with the best previews are made in full. For the audited prompts all of them are, so that
`preview.json` can say how well previews rank rewrites and how often they miss the best one.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from pav_jax.candidates.candidate_store import PendingCandidate
from pav_jax.candidates.pool import CandidatePool
from pav_jax.candidates.scoring import overall_scores
from pav_jax.candidates.statistics import format_or_dash
from pav_jax.errors import BadInput
from pav_jax.parallel import processes
from pav_jax.records import stable_seed
from pav_jax.storage.addresses import AnyPath
from pav_jax.storage.json_files import write_json
from pav_jax.video.images import PromptImage

FILE = "preview.json"
FOLDER = "previews"
# part of the seed that selects the audited prompts; a change would select different ones
AUDIT_SEED = "audit of drafts"  # vocabulary: ignore
SETTINGS = ("num_inference_steps", "num_frames", "height", "width")


class PreviewFilter:
    """Selects the rewrites of a round that get a full video.

    Args:
      previews: the pool of the previews.
      keep: share of a prompt's rewrites of a round that are selected; their number is rounded up.
      audit: share of prompts for which all rewrites are selected.
    """

    def __init__(self, previews: CandidatePool, keep: float, audit: float):
        if not 0 < keep < 1:
            raise _invalid_option("keep", keep, "use a share between 0 and 1; 1 disables previews")
        if not 0 <= audit <= 1:
            raise _invalid_option("audit", audit, "use a share from 0 to 1")
        self.previews = previews
        self.keep = keep
        self.audit = audit

    @classmethod
    def from_config(
        cls,
        config: Any,
        generator: Any,
        suite: Any,
        workdir: AnyPath,
        weights: Mapping[str, float] | None = None,
        images: Mapping[str, PromptImage | None] | None = None,
    ) -> "PreviewFilter | None":
        """Build the filter of `evolve.preview`; None if `evolve.preview.keep` is 1.

        Args:
          images: prompt -> image, as for the pool of the full videos.

        Raises:
          BadInput: no setting makes previews cheaper, the generator's settings cannot be changed,
            or a reward needs more frames than a preview has.
        """
        options = config.evolve.preview
        if options.keep == 1:
            return None
        settings = {name: options[name] for name in SETTINGS if options[name] is not None}
        if not settings:
            raise BadInput(
                f"evolve.preview: previews cost as much as full videos; set one of"
                f" {', '.join(SETTINGS)}",
                source="configuration",
                field="evolve.preview",
            )
        if "num_frames" in settings:
            suite.check_frames(settings["num_frames"])  # before any preview is made
        pool = CandidatePool(
            generator.with_settings(**settings),
            suite,
            workdir / FOLDER,
            workdir,
            seed=config.seed,
            batch_size=config.generator.batch_size,
            weights=weights,
            images=images,
        )
        return cls(pool, options.keep, options.audit)

    def is_audited(self, prompt: str) -> bool:
        """Whether all rewrites of this prompt get a full video."""
        return stable_seed(AUDIT_SEED, prompt) < self.audit * 2**31

    def select(self, pending: Sequence[PendingCandidate], round: int) -> list[PendingCandidate]:
        """Make and score previews; return the candidates that get a full video, in order.

        Args:
          pending: all candidates of a batch of prompts in one round.
        """
        for _ in self.previews.score_round(pending, round):
            pass
        overall = self._overall()
        selected: list[PendingCandidate] = []
        for prompt in dict.fromkeys(candidate.prompt for candidate in pending):
            rows = [candidate for candidate in pending if candidate.prompt == prompt]
            if not self.is_audited(prompt):
                best = sorted(rows, key=lambda c: (-overall[c.prompt, c.refined], c.index))
                rows = sorted(best[: math.ceil(self.keep * len(rows))], key=lambda c: c.index)
            selected += rows
        return selected

    def _overall(self) -> dict[tuple[str, str], float]:
        """Return (prompt, rewrite) -> overall of its preview."""
        candidates = self.previews.candidates
        values = overall_scores(candidates, self.previews.weights)
        return {
            (c.prompt, c.refined): float(value) for c, value in zip(candidates, values, strict=True)
        }

    def write_report(self, pool: CandidatePool, workdir: AnyPath) -> dict[str, Any]:
        """Write `preview.json`: how well previews rank audited prompts, and the work they saved.

        Args:
          pool: the pool of the full videos.
        """
        self.previews.wait_for_processes("previews")
        candidates = [c for c in pool.candidates if c.round > 0]
        full = overall_scores(candidates, pool.weights)
        preview = self._overall()
        audited: dict[tuple[str, int], list[tuple[float, float]]] = {}
        for c, value in zip(candidates, full, strict=True):
            if self.is_audited(c.prompt) and (c.prompt, c.refined) in preview:
                pair = (preview[c.prompt, c.refined], float(value))
                audited.setdefault((c.prompt, c.round), []).append(pair)
        cost = relative_cost(self.previews.generator, pool.generator)
        report = {
            "keep": self.keep,
            "relative_cost": cost,
            "num_previews": len(preview),
            "num_videos": len(candidates),
            "saved": saved_share(len(preview), len(candidates), cost),
            **ranking_quality(audited.values(), self.keep),
        }
        processes.run_on_first_process(FILE, lambda: write_json(workdir / FILE, report))
        return report


def ranking_quality(
    groups: Iterable[Sequence[tuple[float, float]]], keep: float
) -> dict[str, float | int | None]:
    """Measure how well previews rank the rewrites of a prompt.

    Args:
      groups: for each audited prompt and round, (overall of the preview, overall of the full video)
        of each rewrite. A failed preview, which has minus infinity, ranks last; a rewrite whose
        full video failed is left out.
      keep: see `PreviewFilter`.

    Returns:
      num_groups: groups of at least two rewrites.
      rank_correlation: mean Spearman correlation within a group.
      best_selected: share of groups whose best rewrite would have been selected.
      mean_loss: mean over all groups of the overall lost by missing the best one.
      The means are None if there is no group.
    """
    correlations: list[float] = []
    best_selected: list[bool] = []
    losses: list[float] = []
    for group in groups:
        finite = [pair for pair in group if np.isfinite(pair[1])]
        preview, full = np.asarray(finite).reshape(-1, 2).T
        if len(preview) < 2:
            continue
        if len(set(preview)) > 1 and len(set(full)) > 1:
            correlation, _p_value = stats.spearmanr(preview, full)
            correlations.append(correlation)  # pyright: ignore[reportArgumentType]  (stubs of scipy)
        selected = np.argsort(-preview, kind="stable")[: math.ceil(keep * len(preview))]
        best_selected.append(full[selected].max() >= full.max())
        losses.append(full.max() - full[selected].max())
    return {
        "num_groups": len(best_selected),
        "rank_correlation": _mean(correlations),
        "best_selected": _mean(best_selected),
        "mean_loss": _mean(losses),
    }


def relative_cost(preview: Any, full: Any) -> float | None:
    """Return the cost of a preview over that of a full video; None if a generator reports no cost.

    The cost is steps x frames x pixels. Attention makes the true ratio smaller; encoding and
    scoring make it larger.
    """
    costs = preview.cost(), full.cost()
    return None if None in costs else costs[0] / costs[1]


def saved_share(num_previews: int, num_videos: int, cost: float | None) -> float | None:
    """Return the share of the generator's work saved, compared with a full video of every rewrite.

    Args:
      cost: cost of a preview relative to a full video; None if unknown.
    """
    if cost is None or not num_previews:
        return None
    return 1 - (num_videos + cost * num_previews) / num_previews


def summary_line(report: Mapping[str, Any]) -> str:
    """Return the content of `preview.json` as a line for the log and the HTML report."""
    counts = (
        f"previews: {report['num_videos']} of {report['num_previews']} rewrites made in full,"
        f" {format_or_dash(report['saved'], '.0%')} of the work saved"
    )
    if not report["num_groups"]:
        return f"{counts}; no prompt was audited"
    return (
        f"{counts}; in {report['num_groups']} audited groups the mean rank correlation is"
        f" {format_or_dash(report['rank_correlation'], '.2f')} and the best rewrite is selected in"
        f" {format_or_dash(report['best_selected'], '.0%')}"
    )


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _invalid_option(name: str, value: float, fix: str) -> BadInput:
    field = f"evolve.preview.{name}"
    return BadInput(f"{field}={value}: {fix}", source="configuration", field=field)
