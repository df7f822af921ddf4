"""Evolution: rounds of rewriting, guided by the scores of the videos.

Source: Prompt-A-Video (arXiv 2412.15156), section 3, and its code (gpt_boost.py).
"""

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pav_jax.booster.guard import Guard
from pav_jax.candidates.constraints import minimum_scores
from pav_jax.candidates.pool import CandidatePool, best_overall
from pav_jax.candidates.preview import PreviewFilter, summary_line
from pav_jax.candidates.prompt_text import usable_prompts
from pav_jax.candidates.ranking import Ranking, check_method
from pav_jax.candidates.reward_hacking import score_candidates
from pav_jax.candidates.reward_hacking_rounds import evolution_statistics
from pav_jax.candidates.rounds import Rewrite, run_round
from pav_jax.candidates.scoring import overall_scores, stage_weights
from pav_jax.candidates.video_progress import VideoProgress
from pav_jax.evolve.mixture import Mixture
from pav_jax.evolve.proposer import ProposalRequest, Proposer, ScoredRewrite
from pav_jax.records import Candidate, stable_seed
from pav_jax.rewards.suite import HELD_OUT
from pav_jax.storage.addresses import AnyPath, as_path
from pav_jax.video.images import PromptImage

log = logging.getLogger(__name__)

USER = "user"  # proposer name of round 0

KeyedRewrite = tuple[str, ScoredRewrite]  # (key of the candidate, rewrite)


def evolve(
    config: Any,
    prompts: Sequence[str],
    proposers: Mixture | Proposer,
    generator: Any,
    suite: Any,
    workdir: str | os.PathLike,
    progress: Any = None,
    images: Mapping[str, PromptImage | None] | None = None,
) -> list[Candidate]:
    """Fill `<workdir>/pool` and return its candidates. Resumes an interrupted run.

    Round 0 scores the users' own prompts. Each later round asks for `num_rewrites` new rewrites of
    every prompt and shows the proposers the `history_size` best from earlier rounds. All prompts
    finish a round before any starts the next, so a proposer's input does not depend on scheduling.

    Args:
      config: the whole configuration; reads `seed`, `generator.batch_size`, `evolve` and
        `booster.guard`.
      proposers: a mixture, or a single proposer.
      generator: a `video.generator.Generator`.
      suite: a `rewards.suite.RewardSuite`.
      progress: a `pav_jax.progress.Progress`, a `rich.progress.Progress` or None.
      images: prompt -> the image that its videos are made from, or None. Proposers and rewards do
        not see it.

    Raises:
      BadInput: a configuration field, a prompt list or a proposer is invalid.
    """
    workdir = as_path(workdir)
    search = _Search(config, prompts, proposers, generator, suite, workdir, progress, images)
    search.score_user_prompts()
    for round in range(1, config.evolve.rounds + 1):
        search.run_round(round)
    search.report_previews()
    return search.pool.candidates


class _Search:
    """The state of an evolution. Arguments as for `evolve`."""

    def __init__(
        self,
        config: Any,
        prompts: Sequence[str],
        proposers: Mixture | Proposer,
        generator: Any,
        suite: Any,
        workdir: AnyPath,
        progress: Any,
        images: Mapping[str, PromptImage | None] | None,
    ):
        self.config = config
        self.options = config.evolve
        self.workdir = workdir
        self.ranking = evolution_ranking(config, suite)
        self.prompts = usable_prompts(prompts, self.options.max_prompts)
        if not isinstance(proposers, Mixture):
            proposers = Mixture.from_proposers(
                proposers,
                max_attempts=self.options.max_proposal_attempts,
                max_words=self.options.max_words,
                guard=Guard.from_config(config),
            )
        self.mixture = proposers
        weights = stage_weights(config, "evolve", suite)
        self.pool = CandidatePool(
            generator,
            suite,
            workdir / "pool",
            workdir,
            seed=config.seed,
            batch_size=config.generator.batch_size,
            weights=weights,
            keep_videos=self.options.keep_videos,
            images=images,
        )
        self.preview_filter = PreviewFilter.from_config(
            config, generator, suite, workdir, weights, images
        )
        total = self._num_candidates(self.options.rounds)
        # rewrites of a prompt share a seed and so tell whether prompts are read, after round 0
        self.progress = VideoProgress(
            "evolve",
            total,
            self.pool,
            progress,
            may_probe=len(self.prompts) > 2 * config.generator.batch_size,
        )

    def _num_candidates(self, rounds: int) -> int:
        return len(self.prompts) * (1 + rounds * self.options.num_rewrites)

    def score_user_prompts(self) -> None:
        """Run round 0: score the videos of the users' own prompts."""
        run_round(
            self.pool,
            self.prompts,
            0,
            lambda prompts: [[(USER, prompt)] for prompt in prompts],
            on_batch=self.progress.advance,
        )
        self._log_round(0)

    def run_round(self, round: int) -> None:
        """Propose rewrites from earlier rounds and score their videos."""
        history = scored_history(self.pool, round)
        self.mixture.observe([rewrite for rows in history.values() for _, rewrite in rows])
        shown = {prompt: self._shown(rows) for prompt, rows in history.items()}

        def propose(prompts: Sequence[str]) -> list[list[Rewrite]]:
            return self.mixture.propose(
                [self._request(prompt, round, shown[prompt], history[prompt]) for prompt in prompts]
            )

        run_round(
            self.pool,
            self.prompts,
            round,
            propose,
            parents=lambda prompt: tuple(key for key, _ in shown[prompt]),
            proposal_batch_size=self.options.proposal_batch_size,
            on_batch=self.progress.advance,
            preview_filter=self.preview_filter,
        )
        self.progress.advance_to(self._num_candidates(round))
        self._log_round(round)

    def _shown(self, rows: Sequence[KeyedRewrite]) -> list[KeyedRewrite]:
        """Return the history for proposers: the user's prompt, then the best rewrites."""
        return [rows[0], *best_rewrites(rows[1:], self.options.history_size, self.ranking)]

    def _request(
        self,
        prompt: str,
        round: int,
        shown: Sequence[KeyedRewrite],
        earlier: Sequence[KeyedRewrite],
    ) -> ProposalRequest:
        return ProposalRequest(
            prompt,
            history=tuple((rewrite.refined, rewrite.scores) for _, rewrite in shown),
            num_rewrites=self.options.num_rewrites,
            seed=stable_seed(self.config.seed, "propose", prompt, round),
            round=round,
            tried=frozenset(rewrite.refined for _, rewrite in earlier),
        )

    def report_previews(self) -> None:
        """Write `preview.json` if previews are enabled."""
        if self.preview_filter is not None:
            report = self.preview_filter.write_report(self.pool, self.workdir)
            log.info("%s", summary_line(report))

    def _log_round(self, round: int) -> None:
        candidates = [c for c in self.pool.candidates if c.round <= round]
        values = overall_scores(candidates, self.pool.weights)
        in_round = np.asarray([c.round == round for c in candidates], bool)
        round_values = values[in_round & np.isfinite(values)]
        best = [v for v in best_overall(candidates, values).values() if np.isfinite(v)]
        mean_overall = float(round_values.mean()) if round_values.size else np.nan
        mean_best = float(np.mean(best)) if best else np.nan
        self.progress.add_scalars(
            round, {"round/mean_overall": mean_overall, "round/mean_best": mean_best}
        )
        log.info(
            "evolve round %d: mean overall %.3f, best so far %.3f, %d candidates, %d failed, %s",
            round,
            mean_overall,
            mean_best,
            len(candidates),
            sum(c.error is not None for c in candidates),
            self.progress.rate(),
        )
        if round:
            scored = score_candidates(candidates, values)
            evolution_statistics(round, scored).log_warnings(log)


def scored_history(pool: CandidatePool, round: int) -> dict[str, list[KeyedRewrite]]:
    """Return prompt -> its rewrites of earlier rounds, the user's own prompt first.

    Held-out scores are left out: an evaluator that proposers optimize for is no longer held out.
    """
    earlier = [c for c in pool.candidates if c.round < round]
    rows: dict[str, list[KeyedRewrite]] = {}
    for c, value in zip(earlier, overall_scores(earlier, pool.weights), strict=True):
        scores = {name: s for name, s in c.scores.items() if not name.startswith(HELD_OUT)}
        rewrite = ScoredRewrite(c.prompt, c.refined, float(value), scores)
        rows.setdefault(c.prompt, []).append((c.key, rewrite))
    return rows


def evolution_ranking(config: Any, suite: Any) -> Ranking:
    """Return the ranking of the rewrites that proposers see.

    Constraints: ranking="sum" has none unless `evolve.constraints` is set; "pareto" and
    "average_rank" default to the suite's.
    """
    options = config.evolve
    check_method(options.ranking, "evolve.ranking")
    constraints: dict[str, float] = {}
    if options.constraints is not None or options.ranking != "sum":
        constraints = minimum_scores(options.constraints, suite.constraints)
    return Ranking(options.ranking, stage_weights(config, "evolve", suite), constraints)


def best_rewrites(
    rows: Sequence[KeyedRewrite], history_size: int, ranking: Ranking
) -> list[KeyedRewrite]:
    """Return the best rewrites, best first; excludes candidates without a finite overall."""
    selectable = [row for row in rows if np.isfinite(row[1].overall)]
    keys = ranking.keys(
        [rewrite.scores for _, rewrite in selectable],
        [rewrite.overall for _, rewrite in selectable],
    )
    ordered = sorted(zip(keys, selectable, strict=True), key=lambda pair: (pair[0], pair[1][0]))
    return [row for _, row in ordered[:history_size]]
