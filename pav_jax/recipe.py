"""The whole method, top to bottom: evolve, select, SFT, then prefer and DPO twice, evaluate,
report.

Every stage reads and writes the work directory and skips what is finished, so `run` may be stopped
anywhere and called again. Source: Prompt-A-Video (arXiv 2412.15156), sections 3 and 4.
"""

import logging
import os
from pathlib import Path

from pav_jax.candidates.prompt_sets import read_sets
from pav_jax.components import (
    Parts,
    booster_before,
    load_rewriter,
    named_booster,
    progress_bars,
    prompts,
    require_output,
    rewriter_sampling,
    round_prompts,
)
from pav_jax.errors import BadInput
from pav_jax.storage.records import read_segments, write_jsonl

log = logging.getLogger(__name__)


def run(config, workdir: str | os.PathLike) -> Path:
    """Everything, in order; returns the report's path."""
    check_rankings(config)
    parts = Parts(config)
    evolve(config, workdir, parts)
    select(config, workdir, parts)
    sft(config, workdir)
    for round in range(1, config.rounds + 1):
        prefer(config, workdir, round, parts)
        dpo(config, workdir, round)
    evaluate(config, workdir, config.evaluate.controls, parts)
    return report(config, workdir)


# --------------------------------------------------------------------------------------- the stages


def evolve(config, workdir, parts: "Parts | None" = None) -> None:
    """Training prompts -> pool/: rewrites of each, bred by the scores of their videos."""
    from pav_jax.evolve.evolve import evolve as evolution
    from pav_jax.evolve.registry import build_mixture
    from pav_jax.rewards.faithfulness import faithfulness

    parts = parts or Parts(config)
    proposers = build_mixture(config, lambda: parts.rewriter, faithfulness)
    with progress_bars() as bars:
        evolution(
            config,
            prompts(config.evolve.prompts),
            proposers,
            parts.generator,
            parts.suite,
            workdir,
            bars,
        )


def select(config, workdir, parts: "Parts | None" = None) -> Path:
    """pool/ -> sft_pairs.jsonl: the best rewrite of each prompt that passes thresholds and
    floors."""
    from pav_jax.evolve.select import select as selection
    from pav_jax.parallel import processes
    from pav_jax.records import Candidate

    parts = parts or Parts(config)
    pool = read_segments(Path(workdir) / "pool", Candidate)
    if not pool:
        raise BadInput(f"{Path(workdir) / 'pool'}: no candidates yet; run `pav evolve` first")
    processes.run_on_first_process("select", lambda: selection(config, pool, parts.suite, workdir))
    return Path(workdir) / "sft_pairs.jsonl"


def sft(config, workdir) -> Path:
    """sft_pairs.jsonl, or the file `config.sft.pairs`, -> sft/booster."""
    from pav_jax.parallel.processes import first_process_first
    from pav_jax.train import sft_trainer as training
    from pav_jax.train.import_pairs import import_pairs

    if config.sft.pairs:
        with first_process_first("pairs"):
            pairs = import_pairs(config.sft.pairs, Path(workdir) / "sft" / "pairs.jsonl")
    else:
        pairs = require_output(workdir, "sft_pairs.jsonl", "select")
    with progress_bars() as bars:
        return training.run(config, load_rewriter(config), pairs, Path(workdir) / "sft", bars)


def prefer(config, workdir, round: int = 1, parts: "Parts | None" = None) -> Path:
    """The booster so far and new prompts -> round_N/candidates/ and round_N/preferences.jsonl."""
    from pav_jax.parallel import processes
    from pav_jax.prefer.pairs import make_pairs
    from pav_jax.prefer.sampling import make_candidates

    parts = parts or Parts(config)
    folder = Path(workdir) / f"round_{round}"
    chosen = round_prompts(
        prompts(config.prefer.prompts), config.prefer.max_prompts, round, config.rounds
    )
    with progress_bars() as bars:
        candidates = make_candidates(
            config,
            chosen,
            load_rewriter(config, booster_before(workdir, round), own=True),
            parts.generator,
            parts.suite,
            workdir,
            round,
            bars,
        )
    pairs = make_pairs(candidates, parts.suite, config)
    processes.run_on_first_process(
        f"preferences {round}", lambda: write_jsonl(folder / "preferences.jsonl", pairs)
    )
    return folder / "preferences.jsonl"


def dpo(config, workdir, round: int = 1) -> Path:
    """round_N/preferences.jsonl -> round_N/booster."""
    from pav_jax.candidates.reward_hacking_rounds import read_pair_statistics
    from pav_jax.train import dpo_trainer as training

    preferences = require_output(
        workdir, f"round_{round}/preferences.jsonl", f"prefer --round={round}"
    )
    start = load_rewriter(config, booster_before(workdir, round))
    statistics = read_pair_statistics(workdir, config, round)
    if statistics is not None:
        statistics.log_warnings(log)
    with progress_bars() as bars:
        return training.run(config, start, preferences, Path(workdir) / f"round_{round}", bars)


def grpo(config, workdir, parts: "Parts | None" = None) -> Path:
    """A booster and prompts -> grpo/booster: tuned by the scores of its own rewrites' videos. Not a
    part of `run`."""
    from pav_jax.train import grpo_trainer as training

    parts = parts or Parts(config)
    start = load_rewriter(config, named_booster(config.grpo.start, workdir))
    with progress_bars() as bars:
        return training.run(
            config,
            start,
            config.grpo.prompts,
            parts.generator,
            parts.suite,
            Path(workdir) / "grpo",
            bars,
        )


def evaluate(config, workdir, controls: bool = True, parts: "Parts | None" = None) -> Path:
    """Every system on the evaluation prompts -> evaluation.json."""
    from pav_jax.booster.booster import Booster
    from pav_jax.evaluate.benchmark import evaluate as benchmark
    from pav_jax.evaluate.systems import check_systems, systems_named
    from pav_jax.evolve.registry import build_chat_proposers

    parts = parts or Parts(config)
    options = config.evaluate
    base = Booster(parts.rewriter, rewriter_sampling(config))
    chats = build_chat_proposers(config, options.systems)
    systems = systems_named(options.systems, dict(options.rewrite_files), base, workdir, chats)
    check_systems(systems)
    with progress_bars() as bars:
        benchmark(
            config,
            systems,
            read_sets(options.prompts, options.max_prompts),
            parts.generator,
            parts.suite,
            workdir,
            controls,
            prompts(config.evolve.prompts),
            bars,
        )
    return Path(workdir) / "evaluation.json"


def trust(config, workdir, parts: "Parts | None" = None) -> Path:
    """Prompts -> trust.json: what each reward is worth here. Not a part of `run`."""
    from pav_jax.parallel import processes
    from pav_jax.trust.table import print_table
    from pav_jax.trust.trust import FILE
    from pav_jax.trust.trust import trust as measure

    parts = parts or Parts(config)
    asked = prompts(config.trust.prompts or config.evolve.prompts)
    with progress_bars() as bars:
        result = measure(config, asked, parts.generator, parts.suite, workdir, bars)
    processes.run_on_first_process("table", lambda: print_table(result))
    return Path(workdir) / FILE


def calibrate(config, workdir) -> Path:
    """pool/ -> calibration.json: thresholds and weights that fit its scores. Not a part of
    `run`."""
    from pav_jax.parallel import processes
    from pav_jax.records import Candidate
    from pav_jax.trust.calibrate import FILE, command_options
    from pav_jax.trust.calibrate import calibrate as fit

    pool = read_segments(Path(workdir) / "pool", Candidate)
    if not pool:
        raise BadInput(f"{Path(workdir) / 'pool'}: no candidates yet; run `pav evolve` first")
    result = fit(config, pool, workdir)
    processes.run_on_first_process("overrides", lambda: print("\n".join(command_options(result))))
    return Path(workdir) / FILE


def report(config, workdir) -> Path:
    """Whatever is there -> report/index.html."""
    from pav_jax.parallel import processes
    from pav_jax.report.page import write_report

    processes.run_on_first_process("report", lambda: write_report(workdir, **config.report))
    return Path(workdir) / "report" / "index.html"


def check_rankings(config) -> None:
    """Raises BadInput for a `ranking` that only a later stage would refuse, with its videos made in
    vain."""
    from pav_jax.candidates.ranking import check_method

    for section in ("evolve", "select", "prefer"):
        check_method(config[section].ranking, f"{section}.ranking")
