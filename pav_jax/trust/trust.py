"""Does a reward measure what it is optimized for? Tests it on videos of the configured generator.

Each prompt's video is generated with every seed and scored against its own prompt, against the
prompt half the set away, and against an empty one. The first seed's videos of some prompts are also
corrupted, or scored against corrupted captions, with increasing severity.
"""

import os
from collections.abc import Sequence

from pav_jax.candidates.store import VideoRequest
from pav_jax.candidates.video_progress import VideoProgress
from pav_jax.errors import BadInput
from pav_jax.parallel import processes
from pav_jax.records import Candidate
from pav_jax.rewards.suite import HELD_OUT
from pav_jax.storage.addresses import as_path
from pav_jax.storage.json_files import write_json
from pav_jax.storage.records import read_segments
from pav_jax.trust.corruptions import (
    CORRUPTION_TYPES,
    FAMILIES,
    NUM_SEVERITIES,
    VIDEO_CORRUPTIONS,
    corrupt_caption,
)
from pav_jax.trust.samples import (
    EMPTY_PROMPT,
    PERMUTED_PROMPT,
    TRUE_PROMPT,
    Condition,
    SampleStore,
    rewards_with_names,
)
from pav_jax.trust.summary import ScoreArrays, summarize

FILE = "trust.json"


def trust(
    config, prompts: Sequence[str], generator, suite, workdir: str | os.PathLike, progress=None
) -> dict:
    """Tests every score of `suite`. A killed run continues where it stopped when called again.

    Args:
      config: the whole configuration; reads `generator.batch_size` and `trust`.
      prompts: the users' prompts, of which the first `trust.max_prompts` are used.
      generator: a `video.generator.Generator`.
      suite: a `rewards.suite.RewardSuite`.
      workdir: samples go to `trust/` in it; rewrites are read from `pool/` if evolution has run.
      progress: a `pav_jax.progress.Progress`, a `rich.progress.Progress` or None.

    Returns:
      The content of `trust.json`, which it writes; see `summary.summarize`.

    Raises:
      BadInput: an option in `trust` is invalid, or there are too few prompts.
    """
    options = config.trust
    prompts = list(prompts)[: options.max_prompts or None]
    names = [name for names, _ in rewards_with_names(suite) for name in names]
    check_options(options, prompts, names)
    store = SampleStore(
        generator,
        suite,
        as_path(workdir) / "trust",
        batch_size=config.generator.batch_size,
    )
    videos = plan_videos(prompts, options.seeds, options.severities, options.num_corrupted)
    total = sum(len(video.views) for video in videos)
    samples = VideoProgress("trust", total, store, progress, unit="samples", num_videos=len(videos))
    for num_samples in store.score_shared(videos, "trust"):
        samples.advance(num_samples)
    samples.advance_to(samples.total)
    arrays = ScoreArrays.from_store(store, videos, names, options.seeds, options.severities)
    pool = read_segments(as_path(workdir) / "pool", Candidate)
    result = summarize(arrays, suite, options, pool)
    processes.run_on_first_process("trust", lambda: write_json(as_path(workdir) / FILE, result))
    return result


def plan_line(options, num_prompts: int) -> str:
    """The videos to generate, as one line for the log, which comes before models are loaded."""
    num_prompts = min(num_prompts, options.max_prompts or num_prompts)
    num_seeds = len(options.seeds)
    return (
        f"trust, at most: {num_prompts * num_seeds:,} videos, of {num_prompts:,} prompts x"
        f" {num_seeds} seeds; {min(options.num_corrupted, num_prompts):,} of them also corrupted;"
        " the models are loaded first"
    )


def check_options(options, prompts: Sequence[str], names: Sequence[str]) -> None:
    """Checks the `trust` section before any video is generated.

    Raises:
      BadInput: an option is invalid or there are too few prompts.
    """
    if len(prompts) < 2:
        raise BadInput(
            f"trust.prompts: {len(prompts)} prompts; give at least 2, so that they can be permuted",
            source="configuration",
            field="trust.prompts",
        )
    if len(set(options.seeds)) < 2:
        raise BadInput(
            f"trust.seeds={tuple(options.seeds)}: give at least 2 different seeds, to estimate the"
            " variance over seeds",
            source="configuration",
            field="trust.seeds",
        )
    if not _are_severities(tuple(options.severities)):
        raise BadInput(
            f"trust.severities={tuple(options.severities)}: give 0 and at least two more up to"
            f" {NUM_SEVERITIES - 1}, in ascending order",
            source="configuration",
            field="trust.severities",
        )
    if options.num_corrupted < 1:
        raise BadInput(
            f"trust.num_corrupted={options.num_corrupted}: must be at least 1",
            source="configuration",
            field="trust.num_corrupted",
        )
    _check_expected_sensitivities(options.expected_sensitivities, names)


def _are_severities(severities: tuple[int, ...]) -> bool:
    is_ascending = severities == tuple(sorted(set(severities)))
    return (
        is_ascending
        and len(severities) >= 3
        and severities[0] == 0
        and severities[-1] < NUM_SEVERITIES
    )


def _check_expected_sensitivities(expected, names: Sequence[str]) -> None:
    known_names = [name.removeprefix(HELD_OUT) for name in names]
    known_families = list(dict.fromkeys(FAMILIES.values()))
    for name, families in expected.items():
        field = f"trust.expected_sensitivities.{name}"
        if name not in known_names:
            raise BadInput(
                f"{field}: no reward has this score; choose from {', '.join(names)}",
                source="configuration",
                field=field,
            )
        if not families:
            raise BadInput(
                f"{field}: empty; choose families of corruptions from {', '.join(known_families)}",
                source="configuration",
                field=field,
            )
        unknown = sorted(set(families) - set(known_families))
        if unknown:
            raise BadInput(
                f"{field}: no family of corruptions is called {unknown[0]!r}; choose from"
                f" {', '.join(known_families)}",
                source="configuration",
                field=field,
            )


def plan_videos(
    prompts: Sequence[str], seeds: Sequence[int], severities: Sequence[int], num_corrupted: int
) -> list[VideoRequest[Condition]]:
    """Plans which videos to generate and the conditions to score them under.

    Args:
      prompts: at least two, distinct.
      seeds: of the generator; the outer loop of the result.
      severities: of the corruptions, starting with 0.
      num_corrupted: the first seed's videos of that many first prompts are corrupted.
    """
    videos = []
    for seed in seeds:
        for i, prompt in enumerate(prompts):
            other = prompts[(i + len(prompts) // 2) % len(prompts)]
            conditions = [
                Condition(TRUE_PROMPT, 0, prompt),
                Condition(PERMUTED_PROMPT, 0, other),
                Condition(EMPTY_PROMPT, 0, ""),
            ]
            if seed == seeds[0] and i < num_corrupted:
                conditions += _corruptions(prompt, other, severities)
            videos.append(VideoRequest(prompt, int(seed), tuple(conditions)))
    return videos


def _corruptions(prompt: str, other: str, severities: Sequence[int]) -> list[Condition]:
    """Every corruption type at every severity above 0."""
    conditions = []
    for kind in CORRUPTION_TYPES:
        for severity in severities:
            if severity:
                caption = prompt
                if kind not in VIDEO_CORRUPTIONS:
                    caption = corrupt_caption(prompt, other, kind, severity)
                conditions.append(Condition(kind, severity, caption))
    return conditions
