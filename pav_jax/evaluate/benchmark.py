"""Evaluation: compares all systems and controls on the same prompts with the same seeds."""

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pav_jax.booster.guard import Guard
from pav_jax.candidates.prompt_sets import PromptSet
from pav_jax.candidates.scoring import weighted_sums
from pav_jax.candidates.statistics import rounded, seed_mean, summary
from pav_jax.candidates.units import count_units
from pav_jax.candidates.video_progress import VideoProgress
from pav_jax.evaluate import controls as control
from pav_jax.evaluate.controls import Texts
from pav_jax.evaluate.measurements import Cell, MeasurementStore, video_requests
from pav_jax.evaluate.systems import RewriteStore, System
from pav_jax.parallel import processes
from pav_jax.records import Measurement
from pav_jax.storage.addresses import AnyPath, as_path
from pav_jax.storage.json_files import write_json
from pav_jax.storage.records import write_jsonl
from pav_jax.video.images import PromptImage

log = logging.getLogger(__name__)

COMPARISONS = {
    "delta": "original",
    "delta_vs_base": "base",
    "delta_vs_sft": "sft",
    "delta_vs_suffix": "suffix",
}

TextsBySystem = dict[str, Texts]


def evaluate(
    config: Any,
    systems: Mapping[str, System],
    sets: Mapping[str, PromptSet],
    generator: Any,
    suite: Any,
    workdir: str | os.PathLike,
    controls: bool = True,
    training_prompts: PromptSet | Sequence[str] = (),
    progress: Any = None,
) -> dict[str, Any]:
    """Measure systems on prompt sets; write `evaluation.json` and return its content.

    Resumes an interrupted run.

    Args:
      config: the whole configuration; reads `generator.batch_size`, `evaluate` and
        `booster.guard`, which guards the boosters of folders.
      systems: name -> system, see `systems.py`; "original" is always measured too. The shuffled
        control uses the rewrites of the last one.
      sets: name -> prompt set; all videos of a prompt are made from its image, if it has one.
      generator: a `video.generator.Generator`.
      suite: a `rewards.suite.RewardSuite`.
      controls: also measure suffix (if there are training prompts), shuffled, and oracle (if
        captions are known).
      training_prompts: prompts for choosing the best suffix.
      progress: a `pav_jax.progress.Progress`, a `rich.progress.Progress` or None.

    Returns:
      The content of `evaluation.json`, see `statistics.summary`. Each system also has `reverted`,
      its rewrites that are the prompt because none was good enough, and `units`, what all its
      rewrites keep of the prompts (`units.count_units`). A prompt without a score for a
      reward is excluded from its statistics; `missing` counts a system's videos that lack a
      score.
    """
    benchmark = _Benchmark(config, sets, generator, suite, as_path(workdir), progress)
    systems = {"original": None, **systems}
    texts = benchmark.rewrite(systems)
    suffix = None
    if controls:
        suffix = benchmark.choose_suffix(training_prompts)
        add_controls(texts, sets, benchmark.seeds, suffix, rewriter=list(systems)[-1])
    rows = benchmark.measure(texts)
    result = {"seeds": list(benchmark.seeds), "sets": {}}
    for name in sets:
        result["sets"][name] = benchmark.summarize(name, rows, list(texts[name]))
        if suffix:
            result["sets"][name]["systems"]["suffix"]["suffix"] = suffix

    def write() -> None:
        write_jsonl(benchmark.folder / "measurements.jsonl", rows)
        write_json(as_path(workdir) / "evaluation.json", result)

    processes.run_on_first_process("evaluation", write)
    return result


def add_controls(
    texts: dict[str, TextsBySystem],
    sets: Mapping[str, PromptSet],
    seeds: Sequence[int],
    suffix: str | None,
    rewriter: str,
) -> None:
    """Add the texts of the controls to those of the systems.

    Args:
      texts: set -> system -> texts.
      suffix: the chosen suffix; None omits this control.
      rewriter: name of the system whose rewrites the shuffled control permutes.
    """
    for name, prompt_set in sets.items():
        prompts = prompt_set.prompts
        added: TextsBySystem = {}
        if suffix:
            extended = {p: control.with_suffix(p, suffix) for p in prompts}
            added["suffix"] = {(p, seed): extended[p] for p in prompts for seed in seeds}
        added["shuffled"] = control.shuffled(prompts, seeds, texts[name][rewriter])
        added["oracle"] = control.oracle(prompts, prompt_set.oracles, seeds)
        texts[name] |= {system: pairs for system, pairs in added.items() if pairs}


class _Benchmark:
    """The steps of an evaluation. Arguments as for `evaluate`."""

    def __init__(
        self,
        config: Any,
        sets: Mapping[str, PromptSet],
        generator: Any,
        suite: Any,
        workdir: AnyPath,
        progress: Any,
    ):
        self.options = config.evaluate
        self.guard = Guard.from_config(config)
        self.reverted: dict[str, set[tuple[str, int]]] = {}  # system -> (prompt, seed)
        self.seeds = tuple(int(seed) for seed in self.options.seeds)
        self.sets = sets
        self.suite = suite
        self.folder = workdir / "evaluation"
        self.progress = progress
        self.store = MeasurementStore(
            generator,
            suite,
            self.folder / "candidates",
            workdir,
            batch_size=config.generator.batch_size,
            save_videos=self.options.save_videos,
        )

    def rewrite(self, systems: Mapping[str, System]) -> dict[str, TextsBySystem]:
        """Return set -> system -> texts; one system at a time is loaded and rewrites all sets."""
        rewrites = RewriteStore(self.folder / "rewrites", self.guard)
        self.reverted = rewrites.reverted
        prompts = list(dict.fromkeys(p for s in self.sets.values() for p in s.prompts))
        task = None
        if self.progress:
            task = self.progress.add_task("evaluate: rewrites", total=len(systems), unit="systems")
        monitor = getattr(self.progress, "monitor", None)
        texts: dict[str, TextsBySystem] = {name: {} for name in self.sets}
        for name, system in systems.items():

            def check_time(name: str = name) -> None:
                if monitor is not None:
                    monitor.check_time(f"evaluate: the rewrites of {name}")

            rewritten = rewrites.get_or_create(name, system, prompts, self.seeds, check_time)
            for set_name, prompt_set in self.sets.items():
                texts[set_name][name] = {
                    (p, seed): rewritten[p, seed] for p in prompt_set.prompts for seed in self.seeds
                }
            if self.progress:
                self.progress.advance(task)
        return texts

    def choose_suffix(self, training_prompts: PromptSet | Sequence[str]) -> str | None:
        """Return the best suffix on the training prompts; None if there are no training prompts."""
        images: dict[str, PromptImage | None] = {}
        if isinstance(training_prompts, PromptSet):
            images = training_prompts.image_by_prompt
            training_prompts = training_prompts.prompts
        prompts = training_prompts[: self.options.num_suffix_prompts]
        if not prompts:
            log.info("evaluate: no suffix control, because there are no training prompts")
            return None
        seed = self.seeds[0]
        cells = {
            suffix: [
                Cell(p, control.with_suffix(p, suffix), seed, "suffix", images.get(p))
                for p in prompts
            ]
            for suffix in control.suffixes()
        }
        self._score("evaluate: suffixes", [cell for row in cells.values() for cell in row])
        return control.best_suffix(
            {
                suffix: weighted_sums([self.store[cell] for cell in row], self.suite.weights)
                for suffix, row in cells.items()
            }
        )

    def measure(self, texts: Mapping[str, Mapping[str, Texts]]) -> list[Measurement]:
        """Return the measurements of all texts; make and score the missing videos."""
        images = {name: prompt_set.image_by_prompt for name, prompt_set in self.sets.items()}
        cells = [
            (name, Cell(prompt, refined, seed, system, images[name][prompt]))
            for name, systems in texts.items()
            for system, pairs in systems.items()
            for (prompt, seed), refined in pairs.items()
        ]
        self._score("evaluate", [cell for _, cell in cells])
        candidates = [self.store[cell] for _, cell in cells]
        totals = weighted_sums(candidates, self.suite.weights)
        return [
            Measurement(
                set=name,
                system=cell.system,
                prompt=cell.prompt,
                seed=cell.seed,
                refined=cell.refined,
                scores={score: _rounded(value) for score, value in candidate.scores.items()},
                overall=_rounded(total),
                video=candidate.video,
                image=candidate.image,
            )
            for (name, cell), candidate, total in zip(cells, candidates, totals, strict=True)
        ]

    def _score(self, stage: str, cells: Sequence[Cell]) -> None:
        requests = video_requests(cells)
        progress = VideoProgress(
            stage,
            sum(len(request.views) for request in requests),
            self.store,
            self.progress,
            unit="measurements",
            scalars=stage.replace(": ", "_"),
            num_videos=len(requests),
        )
        for num_finished in self.store.score_shared(requests, "measurements"):
            progress.advance(num_finished)
        progress.advance_to(progress.total)

    def summarize(
        self, name: str, rows: Sequence[Measurement], systems: Sequence[str]
    ) -> dict[str, Any]:
        """Return the part of `evaluation.json` about one prompt set."""
        rewards = [*self.suite.names, *self.suite.held_out]
        metrics = [*rewards, "overall", "words"]
        prompt_index = {prompt: i for i, prompt in enumerate(self.sets[name].prompts)}
        shape = (len(prompt_index), len(self.seeds), len(metrics))
        tables = {system: np.full(shape, np.nan) for system in systems}
        missing = dict.fromkeys(systems, 0)
        for row in rows:
            if row.set != name:
                continue
            values = [*(row.scores.get(r) for r in rewards), row.overall, len(row.refined.split())]
            cell = prompt_index[row.prompt], self.seeds.index(row.seed)
            tables[row.system][cell] = [np.nan if value is None else value for value in values]
            if row.overall is None:
                missing[row.system] += 1
        means = {system: seed_mean(table) for system, table in tables.items()}
        result = summary(means, metrics, COMPARISONS, self.options.num_resamples)
        for system, count in missing.items():
            if count:
                result[system]["missing"] = count
        own = [row for row in rows if row.set == name]
        for system in systems:
            reverted = self.reverted.get(system, set())
            result[system] |= {
                "reverted": sum(prompt in prompt_index for prompt, _ in reverted),
                "units": count_units((r.prompt, r.refined) for r in own if r.system == system),
            }
        return {"prompts": len(prompt_index), "systems": result}


def _rounded(value: float) -> float:
    """Round to the digits of the result files; None, which reads back as NaN, if not finite."""
    return rounded(value)  # pyright: ignore[reportReturnType]
