"""Does rewriting help? Every system on the same prompts with the same seeds, and the controls it
has to beat."""

import logging
import os
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath

from pav_jax.candidates.prompt_sets import PromptSet
from pav_jax.candidates.scoring import weighted_sums
from pav_jax.candidates.statistics import rounded, seed_mean, summary
from pav_jax.evaluate import controls as control
from pav_jax.evaluate.measure import Cell, Measurements
from pav_jax.evaluate.systems import Rewrites, System
from pav_jax.parallel import processes
from pav_jax.records import Measurement
from pav_jax.storage.json_files import write_json
from pav_jax.storage.records import write_jsonl

log = logging.getLogger(__name__)

Texts = dict[tuple[str, int], str]  # (prompt, seed) -> what the generator is given
COMPARED = {
    "delta": "original",
    "delta_vs_base": "base",
    "delta_vs_sft": "sft",
    "delta_vs_suffix": "suffix",
}


def evaluate(
    config,
    systems: Mapping[str, System],
    sets: Mapping[str, PromptSet],
    generator,
    suite,
    workdir: str | os.PathLike,
    controls: bool = True,
    training_prompts: Sequence[str] = (),
    progress=None,
) -> dict:
    """Measures `systems` on `sets`; writes `evaluation.json` and returns it. May be killed and
    called again.

    Args:
      config: the whole configuration; reads `generator.batch_size`, and of `evaluate` `seeds`,
        `suffix_prompts`, `resamples` and `save_videos`.
      systems: name -> system, see `systems.py`; "original" is always measured too. The last one is
        the one whose rewrites the shuffled control hands to other prompts.
      generator, suite: see `Measurements`.
      controls: also measure suffix (where there are `training_prompts`), shuffled, and oracle
        (where captions are known).
      progress: a `rich.progress.Progress` or None.

    Returns:
      The content of `evaluation.json`, see `statistics.summary`. A prompt without a score for a
      reward is left out of that reward's figures; `missing` counts a system's videos that lack a
      score.
    """
    options = config.evaluate
    seeds = tuple(int(s) for s in options.seeds)
    folder = epath.Path(workdir) / "evaluation"
    measurements = Measurements(
        generator,
        suite,
        folder / "candidates",
        workdir,
        config.generator.batch_size,
        options.save_videos,
    )
    systems = {"original": None} | dict(systems)
    texts = _rewrite(systems, sets, seeds, Rewrites(folder / "rewrites"), progress)
    suffix = None
    if controls:
        suffix = _find_suffix(
            measurements, suite, training_prompts[: options.suffix_prompts], seeds[0], progress
        )
        _add_controls(texts, sets, seeds, suffix, rewriter=list(systems)[-1])
    cells = [
        Cell(prompt, refined, seed, name)
        for named in texts.values()
        for name, pairs in named.items()
        for (prompt, seed), refined in pairs.items()
    ]
    _measure("evaluate", measurements, cells, progress)

    rows = _rows(texts, measurements, suite)
    result = {"seeds": list(seeds), "sets": {}}
    for name in sets:
        result["sets"][name] = _summarise(
            name, sets[name], rows, list(texts[name]), seeds, suite, options.resamples
        )
        if suffix:
            result["sets"][name]["systems"]["suffix"]["suffix"] = suffix

    def write() -> None:
        write_jsonl(folder / "measurements.jsonl", rows)
        write_json(epath.Path(workdir) / "evaluation.json", result)

    processes.run_on_first_process("evaluation", write)
    return result


# --------------------------------------------------------------------------------- what to generate


def _rewrite(
    systems: Mapping[str, System],
    sets: Mapping[str, PromptSet],
    seeds: Sequence[int],
    rewrites: Rewrites,
    progress,
) -> dict[str, dict[str, Texts]]:
    """Set -> system -> texts. A system answers all sets before the next is loaded."""
    every = list(dict.fromkeys(p for s in sets.values() for p in s.prompts))
    task = progress.add_task("evaluate: rewrites", total=len(systems)) if progress else None
    texts: dict[str, dict[str, Texts]] = {name: {} for name in sets}
    for system, how in systems.items():
        answers = rewrites.of(system, how, every, seeds)
        for name, prompt_set in sets.items():
            texts[name][system] = {(p, s): answers[p, s] for p in prompt_set.prompts for s in seeds}
        if progress:
            progress.advance(task)
    return texts


def _find_suffix(
    measurements: Measurements, suite, prompts: Sequence[str], seed: int, progress
) -> str | None:
    """The fixed suffix that helps most on the training prompts; None without training prompts."""
    if not prompts:
        log.info("evaluate: no training prompts, so there is no suffix control")
        return None
    tried = {
        suffix: [Cell(p, control.with_suffix(p, suffix), seed, "suffix") for p in prompts]
        for suffix in control.suffixes()
    }
    _measure(
        "evaluate: suffixes",
        measurements,
        [cell for cells in tried.values() for cell in cells],
        progress,
    )
    return control.best_suffix(
        {
            suffix: weighted_sums([measurements[c] for c in cells], suite.weights)
            for suffix, cells in tried.items()
        }
    )


def _add_controls(
    texts: dict[str, dict[str, Texts]],
    sets: Mapping[str, PromptSet],
    seeds: Sequence[int],
    suffix: str | None,
    rewriter: str,
) -> None:
    for name, prompt_set in sets.items():
        added = {
            "shuffled": control.shuffled(prompt_set.prompts, seeds, texts[name][rewriter]),
            "oracle": control.oracle(prompt_set.prompts, prompt_set.oracles, seeds),
        }
        if suffix:
            extended = {p: control.with_suffix(p, suffix) for p in prompt_set.prompts}
            added = {
                "suffix": {(p, s): extended[p] for p in prompt_set.prompts for s in seeds}
            } | added
        texts[name] |= {system: pairs for system, pairs in added.items() if pairs}


def _measure(stage: str, measurements: Measurements, cells: Sequence[Cell], progress) -> None:
    task = progress.add_task(stage, total=measurements.count(cells)) if progress else None
    measurements.measure(
        cells, on_batch=(lambda n: progress.advance(task, n)) if progress else None
    )


# ------------------------------------------------------------------------------------ what came out


def _rows(
    texts: Mapping[str, Mapping[str, Texts]], measurements: Measurements, suite
) -> list[Measurement]:
    asked = [
        (name, system, Cell(prompt, refined, seed, system))
        for name, named in texts.items()
        for system, pairs in named.items()
        for (prompt, seed), refined in pairs.items()
    ]
    candidates = [measurements[cell] for _, _, cell in asked]
    totals = weighted_sums(candidates, suite.weights)
    return [
        Measurement(
            name,
            system,
            cell.prompt,
            cell.seed,
            cell.refined,
            {k: rounded(v) for k, v in candidate.scores.items()},
            rounded(total),
            candidate.video,
        )
        for (name, system, cell), candidate, total in zip(asked, candidates, totals, strict=True)
    ]


def _summarise(
    name: str,
    prompt_set: PromptSet,
    rows: Sequence[Measurement],
    systems: Sequence[str],
    seeds: Sequence[int],
    suite,
    resamples: int,
) -> dict:
    rewards = [*suite.names, *getattr(suite, "held_out", ())]
    metrics = [*rewards, "overall", "words"]
    place = {p: i for i, p in enumerate(prompt_set.prompts)}
    tables = {system: np.full((len(place), len(seeds), len(metrics)), np.nan) for system in systems}
    missing = dict.fromkeys(systems, 0)
    for row in rows:
        if row.set == name:
            scores = [row.scores.get(m) for m in rewards] + [row.overall, len(row.refined.split())]
            values = [np.nan if v is None else v for v in scores]
            tables[row.system][place[row.prompt], seeds.index(row.seed)] = values
            missing[row.system] += row.overall is None
    result = summary(
        {s: seed_mean(table) for s, table in tables.items()}, metrics, COMPARED, resamples
    )
    for system, count in missing.items():
        if count:
            result[system]["missing"] = count
    return {"prompts": len(place), "systems": result}
