"""Does a reward measure what it is optimised for? Videos of the configured generator, looked at in
many ways.

Each prompt is made with every seed and scored against itself, against the prompt half the set away,
and against an empty one. The first seed's videos of some prompts are also damaged step by step, and
scored against captions that are wrong step by step.
"""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float

from pav_jax.candidates.statistics import paired_intervals, rounded, seed_mean
from pav_jax.errors import BadInput
from pav_jax.parallel import processes
from pav_jax.records import Candidate
from pav_jax.rewards.suite import HELD_OUT
from pav_jax.storage.json_files import write_json
from pav_jax.storage.records import read_segments
from pav_jax.trust import measures, verdict
from pav_jax.trust.corruptions import (
    CORRUPTION_TYPES,
    FAMILIES,
    NUM_SEVERITIES,
    SPLIT_RULE,
    VIDEO_CORRUPTIONS,
    corrupt_caption,
    split_types,
)
from pav_jax.trust.samples import EMPTY, PERMUTED, TRUE, Samples, Video, View, judges_of

FILE = "trust.json"
# class of a reward -> the range that its scores are said to have. VideoScore: its ratings (arXiv
# 2406.15252); AES and MPS: about, of their checkpoints; the others by construction. Same names may
# come from different rewards.
PUBLISHED = {
    "VideoScore": (1.0, 4.0),
    "Aesthetic": (3.0, 8.0),
    "MPS": (5.0, 15.0),
    "Motion": (0.0, 1.0),
    "Faithfulness": (0.0, 1.0),
}


def trust(
    config, prompts: Sequence[str], generator, suite, workdir: str | os.PathLike, progress=None
) -> dict:
    """Measures every score of `suite`; writes `trust.json` and returns it. May be killed and called
    again.

    Args:
      config: the whole configuration; reads `generator.batch` and `trust`.
      prompts: the users' prompts, of which `trust.count` are taken.
      generator, suite: see `Samples`.
      progress: a `rich.progress.Progress` or None.

    Raises:
      BadInput: too few prompts or seeds, or severities or claims that do not exist.
    """
    options, prompts = config.trust, list(prompts)[: config.trust.count or None]
    names = [name for names, _ in judges_of(suite) for name in names]
    check(options, prompts, names)
    samples = Samples(generator, suite, epath.Path(workdir) / "trust", config.generator.batch)
    videos = plan(prompts, options.seeds, options.severities, options.degraded)
    task = progress.add_task("trust", total=sum(len(v.views) for v in videos)) if progress else None
    samples.measure(videos, on_views=(lambda n: progress.advance(task, n)) if progress else None)
    result = summarise(
        Tables(samples, videos, names, options),
        suite,
        options,
        read_segments(epath.Path(workdir) / "pool", Candidate),
    )
    processes.run_on_first_process("trust", lambda: write_json(epath.Path(workdir) / FILE, result))
    return result


def check(options, prompts: Sequence[str], names: Sequence[str]) -> None:
    """Raises BadInput for what cannot be measured."""
    if len(prompts) < 2:
        raise BadInput(
            f"trust.prompts: {len(prompts)} prompts; at least 2 are needed, so that they can be"
            " permuted"
        )
    if len(set(options.seeds)) < 2:
        raise BadInput(
            f"trust.seeds={tuple(options.seeds)}: at least 2 are needed, to tell what a seed does"
        )
    severities = tuple(options.severities)
    if (
        severities != tuple(sorted(set(severities)))
        or len(severities) < 3
        or severities[0] != 0
        or (severities[-1] >= NUM_SEVERITIES)
    ):
        raise BadInput(
            f"trust.severities={severities}: give 0 and at least two others up to"
            f" {NUM_SEVERITIES - 1}, rising"
        )
    if options.degraded < 1:
        raise BadInput(f"trust.degraded={options.degraded}: at least one video must be damaged")
    for name, families in options.claims.items():
        if name not in [n.removeprefix(HELD_OUT) for n in names]:
            raise BadInput(
                f"trust.claims.{name}: no entry of rewards gives this score; there are"
                f" {', '.join(names)}"
            )
        if unknown := sorted(set(families) - set(FAMILIES.values())) or not families:
            raise BadInput(
                f"trust.claims.{name}: {unknown if families else 'nothing'} is no family of damage;"
                f" there are {', '.join(dict.fromkeys(FAMILIES.values()))}"
            )


def plan(
    prompts: Sequence[str], seeds: Sequence[int], severities: Sequence[int], degraded: int
) -> list[Video]:
    """What to make and how to look at it; the damaged videos come first, the first seed's of the
    first prompts."""
    videos = []
    for seed in seeds:
        for i, prompt in enumerate(prompts):
            other = prompts[(i + len(prompts) // 2) % len(prompts)]
            views = [View(TRUE, 0, prompt), View(PERMUTED, 0, other), View(EMPTY, 0, "")]
            if seed == seeds[0] and i < degraded:
                views += [
                    View(
                        kind,
                        severity,
                        prompt
                        if kind in VIDEO_CORRUPTIONS
                        else corrupt_caption(prompt, other, kind, severity),
                    )
                    for kind in CORRUPTION_TYPES
                    for severity in severities
                    if severity
                ]
            videos.append(Video(prompt, int(seed), tuple(views)))
    return videos


# ---------------------------------------------------------------------------------------- as arrays


class Tables:
    """The samples as arrays: one table for each of the shuffle test's captions, one for each kind
    of damage."""

    def __init__(self, samples: Samples, videos: Sequence[Video], names: Sequence[str], options):
        prompts = list(dict.fromkeys(v.prompt for v in videos))
        seeds, severities = list(options.seeds), list(options.severities)
        self.prompts, self.refused = prompts, {}
        self.shuffled = {
            kind: {name: np.full((len(prompts), len(seeds)), np.nan) for name in names}
            for kind in (TRUE, PERMUTED, EMPTY)
        }
        self.damaged = {name: {kind: [] for kind in CORRUPTION_TYPES} for name in names}
        for video in videos:
            at = prompts.index(video.prompt), seeds.index(video.seed)
            for kind, tables in self.shuffled.items():
                sample = samples.of(video, kind)
                self.refused |= dict(line.split(" = ", 1) for line in sample.refused)
                for name, table in tables.items():
                    table[at] = sample.scores.get(name, np.nan)
            if len(video.views) == len(self.shuffled):
                continue
            for kind in CORRUPTION_TYPES:
                rows = [samples.of(video, kind if s else TRUE, s).scores for s in severities]
                for name in names:
                    self.damaged[name][kind].append([row.get(name, np.nan) for row in rows])
        self.damaged = {
            name: {kind: np.asarray(rows) for kind, rows in kinds.items()}
            for name, kinds in self.damaged.items()
        }


# ------------------------------------------------------------------------------------ what came out


def summarise(tables: Tables, suite, options, pool: Sequence[Candidate]) -> dict[str, Any]:
    """The content of `trust.json`; figures that do not exist are null.

    Args:
      pool: scored rewrites, where evolution has left any: they show what length does at one prompt.
    """
    ranges = {
        name: PUBLISHED.get(type(reward).__name__)
        for names, reward in judges_of(suite)
        for name in names
    }
    ranges |= {name: where for name, where in dict(options.ranges).items() if name in ranges}
    fixed, verified = split_types()
    return {
        "prompts": len(tables.prompts),
        "seeds": list(options.seeds),
        "severities": list(options.severities),
        "videos": len(tables.prompts) * len(options.seeds),
        "degraded": min(options.degraded, len(tables.prompts)),
        "halves": {"rule": SPLIT_RULE, "fixed": list(fixed), "verified": list(verified)},
        "rewards": {
            name: _one(name, tables, published, options, pool) for name, published in ranges.items()
        },
        "correlation": {
            a: {b: rounded(r) for b, r in row.items()}
            for a, row in measures.correlation_matrix(
                {name: table.ravel() for name, table in tables.shuffled[TRUE].items()}
            ).items()
        },
    }


def _one(
    name: str,
    tables: Tables,
    published: tuple[float, float] | None,
    options,
    pool: Sequence[Candidate],
) -> dict[str, Any]:
    claims = dict(options.claims)
    true, permuted, empty = (tables.shuffled[kind][name] for kind in (TRUE, PERMUTED, EMPTY))
    difference = _interval(true - permuted, options.resamples)
    area = measures.auc(true.ravel(), permuted.ravel())
    seed, between = measures.noise_floor(true)
    halved = verdict.responses(name, tables.damaged[name], options.severities, seed, claims)
    seen, said = measures.saturation(true.ravel(), published)
    reads = verdict.reads_prompt(name, claims)
    response = {
        kind: _response(rows_DxG, options, seed, kind in verdict.claimed(name, claims))
        for kind, rows_DxG in tables.damaged[name].items()
    }
    rising = [
        kind for kind, found in response.items() if (found["correlation"][0] or 0) >= verdict.RISES
    ]
    word, why = verdict.judge(
        reads, difference, area, halved["verified"], seen if said is None else said, rising
    )
    words = np.array([len(p.split()) for p in tables.prompts], float)
    return {
        "verdict": word,
        "why": why,
        "reads_prompt": reads,
        "shuffle": {
            "true": rounded(np.nanmean(true)) if np.isfinite(true).any() else None,
            "minus_permuted": _rounded(difference),
            "auc": rounded(area),
            "minus_empty": _rounded(_interval(true - empty, options.resamples)),
            "empty_refused": tables.refused.get(name),
        },
        "noise": {"seeds": rounded(seed), "prompts": rounded(between)},
        "response": response,
        "halves": {
            half: {k: rounded(v) for k, v in found.items()} for half, found in halved.items()
        },
        "length": {
            "prompts": rounded(measures.spearman(words, _prompt_means(true))),
            "rewrites": rounded(_rewrite_length(name, pool)),
            "pool": len(pool),
        },
        "saturation": {
            "seen": _rounded(seen),
            "published": said and _rounded(said),
            "range": published and list(published),
        },
    }


def _response(
    scores_DxG: Float[np.ndarray, "D G"], options, seed_noise: float, claimed: bool
) -> dict[str, Any]:
    followed = measures.severity_correlations(scores_DxG, options.severities)
    return {
        "correlation": _rounded(paired_intervals(followed[:, None], options.resamples)[0]),
        "fall": rounded(verdict.fall(scores_DxG, seed_noise)),
        "claimed": claimed,
    }


def _rewrite_length(name: str, pool: Sequence[Candidate]) -> float:
    usable = [c for c in pool if not c.error]
    return measures.grouped_correlation(
        [c.prompt for c in usable],
        np.array([len(c.refined.split()) for c in usable], float),
        np.array([c.scores.get(name, np.nan) for c in usable], float),
    )


def _prompt_means(values_NxS: Float[np.ndarray, "N S"]) -> Float[np.ndarray, "N"]:
    return seed_mean(values_NxS[..., None])[:, 0]


def _interval(difference_NxS: Float[np.ndarray, "N S"], resamples: int) -> Float[np.ndarray, "3"]:
    """Mean, low, high over prompts, seeds averaged first."""
    return paired_intervals(seed_mean(difference_NxS[..., None]), resamples)[0]


def _rounded(values: Sequence[float]) -> list[float | None]:
    return [rounded(v) for v in values]
