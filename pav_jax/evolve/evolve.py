"""Evolution: rewrites of each user prompt, bred over rounds by the scores of their videos (method
sections 1 and 2)."""

import logging
from collections.abc import Sequence

import numpy as np
from etils import epath

from pav_jax.candidates.constraints import minimum_scores
from pav_jax.candidates.preview import Screen, said
from pav_jax.candidates.prompt_text import usable_prompts
from pav_jax.candidates.ranking import Ranking, named_method
from pav_jax.candidates.reward_hacking import score_candidates
from pav_jax.candidates.reward_hacking_rounds import evolution_statistics
from pav_jax.candidates.rounds import Meter, run_round
from pav_jax.candidates.scoring import overall_scores, stage_weights
from pav_jax.candidates.store import Pool
from pav_jax.evolve.proposers import Mixture, ProposalRequest, Proposer, Scored
from pav_jax.records import Candidate, stable_seed
from pav_jax.rewards.suite import HELD_OUT

log = logging.getLogger(__name__)

USER = "user"  # who wrote the rewrite of round 0


def evolve(
    config,
    prompts: Sequence[str],
    proposers: Mixture | Proposer,
    generator,
    suite,
    workdir,
    progress=None,
) -> list[Candidate]:
    """Fills `<workdir>/pool` and returns it. May be killed at any moment and called again.

    Round 0 scores the user's own words; each of `rounds` rounds then asks for `children` new
    rewrites, showing the `top` best of the rounds before. All prompts finish a round before any
    starts the next, so what a proposer sees never depends on the order of the work.

    Args:
      config: the whole configuration; reads `seed`, `generator.batch_size` and of `evolve`: `rounds`,
        `children`, `top`, `count` (0: all prompts), `weights`, `ranking` and `floors` (who is
          best), `keep_videos`, `propose_batch`,
        `draft` (see `screen`).
      generator, suite: see `Pool`.
      progress: a `rich.progress.Progress` or None.
    """
    options = config.evolve
    rounds, children, top = (
        options.get("rounds", 8),
        options.get("children", 3),
        options.get("top", 3),
    )
    ranking = _ranking(config, suite)
    prompts = usable_prompts(prompts, options.get("count", 0))
    mixture = proposers if isinstance(proposers, Mixture) else Mixture.of(proposers)
    workdir = epath.Path(workdir)
    pool = Pool(
        generator,
        suite,
        workdir / "pool",
        workdir,
        seed=config.seed,
        batch=config.generator.batch_size,
        weights=stage_weights(config, "evolve", suite),
        keep_videos=options.get("keep_videos", "none"),
    )
    screen = Screen.from_config(config, generator, suite, workdir)
    meter = Meter("evolve", len(prompts) * (1 + rounds * children), pool, progress)

    run_round(pool, prompts, 0, lambda some: [[(USER, p)] for p in some], on_batch=meter.advance)
    _log_round(0, pool, meter)
    for round in range(1, rounds + 1):
        history = _history(pool, round)
        mixture.observe([scored for rows in history.values() for _, scored in rows])

        def request(prompt: str, rows, round=round) -> ProposalRequest:
            shown = [rows[0], *_best(rows[1:], top, ranking)]
            return ProposalRequest(
                prompt,
                tuple((s.refined, s.scores) for _, s in shown),
                children,
                stable_seed(config.seed, "propose", prompt, round),
                round,
                frozenset(s.refined for _, s in rows),
            )

        run_round(
            pool,
            prompts,
            round,
            lambda some, history=history, request=request: mixture.named(
                [request(p, history[p]) for p in some]
            ),
            parents=lambda p, history=history: tuple(
                key for key, _ in [history[p][0], *_best(history[p][1:], top, ranking)]
            ),
            chunk=options.get("propose_batch", 0),
            on_batch=meter.advance,
            screen=screen,
        )
        meter.settle(len(prompts) * (1 + round * children))
        _log_round(round, pool, meter)
    if screen is not None:
        log.info("%s", said(screen.report(pool, workdir)))
    return pool.candidates


def _history(pool: Pool, round: int) -> dict[str, list[tuple[str, Scored]]]:
    """Prompt -> (key, scored rewrite) of every earlier round, the user's own words first. No
    held-out score is in it: a judge that proposers write for is held out no longer."""
    earlier = [c for c in pool.candidates if c.round < round]
    rows: dict[str, list[tuple[str, Scored]]] = {}
    for c, value in zip(earlier, overall_scores(earlier, pool.weights), strict=True):
        seen = {name: score for name, score in c.scores.items() if not name.startswith(HELD_OUT)}
        rows.setdefault(c.prompt, []).append(
            (c.key, Scored(c.prompt, c.refined, float(value), seen))
        )
    return rows


def _ranking(config, suite) -> Ranking:
    """Who is shown as best. The published sum knows no floors unless some are given; other methods
    keep the suite's."""
    options = config.evolve
    method, floors = named_method(config, "evolve"), options.get("floors")
    kept = {} if floors is None and method == "sum" else minimum_scores(floors, suite.constraints)
    return Ranking.from_config(config, "evolve", suite, options.get("weights"), kept)


def _best(
    rows: Sequence[tuple[str, Scored]], top: int, ranking: Ranking
) -> list[tuple[str, Scored]]:
    """The `top` best, best first; one that may not be selected is never shown."""
    usable = [row for row in rows if np.isfinite(row[1].overall)]
    places = ranking.places(
        [scored.scores for _, scored in usable], [scored.overall for _, scored in usable]
    )
    ordered = sorted(zip(places, usable, strict=True), key=lambda pair: (pair[0], pair[1][0]))
    return [row for _, row in ordered[:top]]


def _log_round(round: int, pool: Pool, meter: Meter) -> None:
    every = [c for c in pool.candidates if c.round <= round]
    values = overall_scores(every, pool.weights)
    best: dict[str, float] = {}
    for c, value in zip(every, values, strict=True):
        best[c.prompt] = max(best.get(c.prompt, -np.inf), value)
    this = np.asarray(
        [v for c, v in zip(every, values, strict=True) if c.round == round and np.isfinite(v)]
    )
    known = [v for v in best.values() if np.isfinite(v)]
    log.info(
        "evolve round %d: mean overall %.3f, best so far %.3f, %d candidates, %d marked, %s",
        round,
        this.mean() if this.size else np.nan,
        np.mean(known) if known else np.nan,
        len(every),
        sum(c.error is not None for c in every),
        meter.rate(),
    )
    if round:
        evolution_statistics(round, score_candidates(every, values)).log_warnings(log)
