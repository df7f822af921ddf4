"""A round of candidates: several rewrites of each new prompt, sampled from the rewriter, each with
its scored video."""

import logging
from collections.abc import Sequence

import numpy as np
from etils import epath

from pav_jax.candidates.prompt_text import plain_text, usable_prompts
from pav_jax.candidates.ranking import named_method
from pav_jax.candidates.reward_hacking import ScoredCandidate, score_candidates
from pav_jax.candidates.reward_hacking_rounds import preference_statistics
from pav_jax.candidates.rounds import Meter, run_round
from pav_jax.candidates.scoring import overall_scores, stage_weights
from pav_jax.candidates.store import Pool
from pav_jax.records import Candidate, stable_seed
from pav_jax.storage.records import read_segments

log = logging.getLogger(__name__)


def make_candidates(
    config,
    prompts: Sequence[str],
    language_model,
    generator,
    suite,
    workdir,
    round: int,
    progress=None,
) -> list[Candidate]:
    """Fills `<workdir>/round_<round>/candidates` and returns it. May be killed at any moment and
    called again.

    Args:
      config: the whole configuration; reads `seed`, `generator.batch_size` and of `prefer`: `samples`,
        `temperature`, `top_k`, `top_p`, `max_new_tokens`, `count` (0: all prompts), `sample_batch`,
        `keep_videos`, `weights`.
      prompts: this round's, which no earlier stage has used.
      language_model: the rewriter tuned so far; asked through its own chat template.
    """
    options = config.prefer
    named_method(config, "prefer")  # pairs go by it when the videos are made: too late to refuse it
    samples, size = options.get("samples", 5), options.get("sample_batch", 32)
    prompts = usable_prompts(prompts, options.get("count", 0))
    workdir = epath.Path(workdir)
    weights = stage_weights(config, "prefer", suite)
    pool = Pool(
        generator,
        suite,
        workdir / f"round_{round}" / "candidates",
        workdir,
        seed=config.seed,
        batch=config.generator.batch_size,
        weights=weights,
        keep_videos=options.get("keep_videos", "none"),
    )
    meter = Meter(f"prefer, round {round}", len(prompts) * samples, pool, progress)
    name = f"round_{round - 1}" if round > 1 else "sft"

    def sample(some: Sequence[str]) -> list[list[tuple[str, str]]]:
        answers = language_model.generate(
            [[{"role": "user", "content": p}] for p in some],
            num_return_sequences=samples,
            temperature=options.get("temperature", 1.0),
            top_k=options.get("top_k", 50),
            top_p=options.get("top_p", 1.0),
            max_new_tokens=options.get("max_new_tokens", 250),
            seed=[stable_seed(config.seed, "prefer", p, round) for p in some],
        )
        return [
            [(name, text) for text in dict.fromkeys(map(plain_text, texts)) if text]
            for texts in answers
        ]

    run_round(pool, prompts, round, sample, chunk=size, on_batch=meter.advance)
    meter.settle(len(prompts) * samples)
    values = overall_scores(pool.candidates, weights)
    finite = values[np.isfinite(values)]
    log.info(
        "prefer round %d: %d candidates of %d prompts, %d marked, overall %.3f, %s",
        round,
        len(values),
        len(prompts),
        len(values) - len(finite),
        finite.mean() if finite.size else np.nan,
        meter.rate(),
    )

    def scored(candidates: Sequence[Candidate]) -> list[ScoredCandidate]:
        return score_candidates(candidates, overall_scores(candidates, weights))

    first_round = read_segments(workdir / "round_1" / "candidates", Candidate) if round > 1 else []
    user_prompts = [c for c in read_segments(workdir / "pool", Candidate) if c.round == 0]
    preference_statistics(
        round, scored(pool.candidates), scored(first_round), scored(user_prompts)
    ).log_warnings(log)
    return pool.candidates
