"""The candidates of a preference round: rewrites sampled from the rewriter, with scored videos.

Source: Prompt-A-Video (arXiv 2412.15156), section 3, and its code (dpo/inference.py).
"""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from pav_jax.booster.guard import Guard
from pav_jax.candidates.pool import CandidatePool
from pav_jax.candidates.prompt_text import plain_text, usable_prompts
from pav_jax.candidates.ranking import check_method
from pav_jax.candidates.reward_hacking import ScoredCandidate, score_candidates
from pav_jax.candidates.reward_hacking_rounds import preference_statistics
from pav_jax.candidates.rounds import Rewrite, run_round
from pav_jax.candidates.scoring import overall_scores, stage_weights
from pav_jax.candidates.video_progress import VideoProgress
from pav_jax.language.thoughts import without_thoughts
from pav_jax.records import Candidate, stable_seed
from pav_jax.storage.addresses import as_path
from pav_jax.storage.records import read_segments
from pav_jax.video.images import PromptImage

log = logging.getLogger(__name__)


def make_candidates(
    config: Any,
    prompts: Sequence[str],
    language_model: Any,
    generator: Any,
    suite: Any,
    workdir: str | os.PathLike,
    round: int,
    progress: Any = None,
    images: Mapping[str, PromptImage | None] | None = None,
) -> list[Candidate]:
    """Fill `<workdir>/round_<round>/candidates` and return the candidates.

    Resumes an interrupted run.

    Args:
      config: the whole configuration; reads `seed`, `generator.batch_size`, `prefer` and
        `booster.guard`, without which unfaithful rewrites are candidates as well.
      prompts: prompts of this round, not used by an earlier stage.
      language_model: the latest trained rewriter; prompted through its own chat template.
      generator: a `video.generator.Generator`.
      suite: a `rewards.suite.RewardSuite`.
      round: number of the preference round, from 1.
      progress: a `pav_jax.progress.Progress`, a `rich.progress.Progress` or None.
      images: prompt -> the image that its videos are made from, or None. The rewriter does not see
        it.

    Raises:
      BadInput: a configuration field or the prompts are invalid.
    """
    options = config.prefer
    check_method(options.ranking, "prefer.ranking")  # before any video is made
    weights = stage_weights(config, "prefer", suite)
    prompts = usable_prompts(prompts, options.max_prompts)
    workdir = as_path(workdir)
    pool = CandidatePool(
        generator,
        suite,
        workdir / f"round_{round}" / "candidates",
        workdir,
        seed=config.seed,
        batch_size=config.generator.batch_size,
        weights=weights,
        keep_videos=options.keep_videos,
        images=images,
    )
    total = len(prompts) * options.num_return_sequences
    round_progress = VideoProgress(
        f"prefer, round {round}", total, pool, progress, scalars=f"prefer_{round}"
    )
    round_progress.show("rewriting prompts and compiling")
    run_round(
        pool,
        prompts,
        round,
        _make_sampler(config, language_model, round),
        proposal_batch_size=options.sampling_batch_size,
        on_batch=round_progress.advance,
    )
    round_progress.advance_to(total)
    _log_round(pool, weights, round, len(prompts), round_progress)
    _log_reward_hacking(pool, weights, round)
    return pool.candidates


def _make_sampler(
    config: Any, language_model: Any, round: int
) -> Callable[[Sequence[str]], list[list[Rewrite]]]:
    """A function that samples the rewrites of prompts: one list per prompt, without duplicates."""
    options = config.prefer
    proposer = f"round_{round - 1}" if round > 1 else "sft"
    guard = Guard.from_config(config)

    def sample(prompts: Sequence[str]) -> list[list[Rewrite]]:
        texts = language_model.generate(
            [[{"role": "user", "content": prompt}] for prompt in prompts],
            num_return_sequences=options.num_return_sequences,
            temperature=options.temperature,
            top_k=options.top_k,
            top_p=options.top_p,
            max_new_tokens=options.max_new_tokens,
            seed=[stable_seed(config.seed, "prefer", prompt, round) for prompt in prompts],
        )
        return [
            [
                (proposer, text)
                for text in dict.fromkeys(
                    plain_text(reply)
                    for reply in guard.faithful(prompt, list(map(without_thoughts, replies)))
                )
                if text
            ]
            for prompt, replies in zip(prompts, texts, strict=True)
        ]

    return sample


def _log_round(
    pool: CandidatePool,
    weights: dict[str, float],
    round: int,
    num_prompts: int,
    round_progress: VideoProgress,
) -> None:
    """Log the mean score, the number of candidates and failures, and the rate of a round."""
    values = overall_scores(pool.candidates, weights)
    finite = values[np.isfinite(values)]
    log.info(
        "prefer round %d: mean overall %.3f, %d candidates of %d prompts, %d failed, %s",
        round,
        finite.mean() if finite.size else np.nan,
        len(values),
        num_prompts,
        len(values) - len(finite),
        round_progress.rate(),
    )


def _log_reward_hacking(pool: CandidatePool, weights: dict[str, float], round: int) -> None:
    """Log a round's reward-hacking warnings against the first round and the users' prompts."""

    def scored(candidates: Sequence[Candidate]) -> list[ScoredCandidate]:
        return score_candidates(candidates, overall_scores(candidates, weights))

    folder = pool.workdir
    first_round: list[Candidate] = []
    if round > 1:
        first_round = read_segments(folder / "round_1" / "candidates", Candidate)
    user_prompts = [c for c in read_segments(folder / "pool", Candidate) if c.round == 0]
    statistics = preference_statistics(
        round, scored(pool.candidates), scored(first_round), scored(user_prompts)
    )
    statistics.log_warnings(log)
