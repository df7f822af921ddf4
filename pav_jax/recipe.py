"""The whole method, top to bottom: evolve, select, SFT, then prefer and DPO twice, evaluate,
report.

Every stage reads and writes the work directory and skips what is finished, so `run` may be stopped
anywhere and called again. Source: Prompt-A-Video (arXiv 2412.15156), sections 3 and 4.
"""

import contextlib
import functools
import logging
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from pav_jax.embedded import resolve
from pav_jax.errors import BadInput
from pav_jax.evaluate.prompt_sets import read_prompt_set, read_sets
from pav_jax.records import read_segments, write_jsonl

log = logging.getLogger(__name__)

GENERATION_FIELDS = (
    "num_frames",
    "height",
    "width",
    "steps",
    "guidance_scale",
    "use_dynamic_cfg",
    "vae_tiling",
    "cfg_parallel",
    "batch",
    "guidance_start",
    "guidance_stop",
    "cache_threshold",
    "cache_max_skips",
    "cache_retention",
)


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
    from pav_jax.evolve.proposers import make_proposers
    from pav_jax.rewards.faithfulness import faithfulness

    parts = parts or Parts(config)
    proposers = make_proposers(config, parts.rewriter, faith=faithfulness)
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
    processes.first_only("select", lambda: selection(config, pool, parts.suite, workdir))
    return Path(workdir) / "sft_pairs.jsonl"


def sft(config, workdir) -> Path:
    """sft_pairs.jsonl, or the file `config.sft.pairs`, -> sft/booster."""
    from pav_jax.parallel.processes import first_process_first
    from pav_jax.train import sft as training
    from pav_jax.train.pairs import import_pairs

    if config.sft.pairs:
        with first_process_first("pairs"):
            pairs = import_pairs(resolve(config.sft.pairs), Path(workdir) / "sft" / "pairs.jsonl")
    else:
        pairs = _made(workdir, "sft_pairs.jsonl", "select")
    with progress_bars() as bars:
        return training.run(config, load_rewriter(config), pairs, Path(workdir) / "sft", bars)


def prefer(config, workdir, round: int = 1, parts: "Parts | None" = None) -> Path:
    """The booster so far and new prompts -> round_N/candidates/ and round_N/preferences.jsonl."""
    from pav_jax.parallel import processes
    from pav_jax.prefer.candidates import make_candidates
    from pav_jax.prefer.pairs import make_pairs

    parts = parts or Parts(config)
    folder = Path(workdir) / f"round_{round}"
    chosen = round_prompts(
        prompts(config.prefer.prompts), config.prefer.count, round, config.rounds
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
    processes.first_only(
        f"preferences {round}", lambda: write_jsonl(folder / "preferences.jsonl", pairs)
    )
    return folder / "preferences.jsonl"


def dpo(config, workdir, round: int = 1) -> Path:
    """round_N/preferences.jsonl -> round_N/booster."""
    from pav_jax.evaluate.signs import pair_signs
    from pav_jax.train import dpo as training

    preferences = _made(workdir, f"round_{round}/preferences.jsonl", f"prefer --round={round}")
    start = load_rewriter(config, booster_before(workdir, round))
    if (signs := pair_signs(workdir, config, round)) is not None:
        signs.warn(log)
    with progress_bars() as bars:
        return training.run(config, start, preferences, Path(workdir) / f"round_{round}", bars)


def grpo(config, workdir, parts: "Parts | None" = None) -> Path:
    """A booster and prompts -> grpo/booster: tuned by the scores of its own rewrites' videos. Not a
    part of `run`."""
    from pav_jax.train import grpo as training

    parts = parts or Parts(config)
    start = load_rewriter(config, named_booster(config.grpo.start, workdir))
    with progress_bars() as bars:
        return training.run(
            config,
            start,
            resolve(config.grpo.prompts),
            parts.generator,
            parts.suite,
            Path(workdir) / "grpo",
            bars,
        )


def evaluate(config, workdir, controls: bool = True, parts: "Parts | None" = None) -> Path:
    """Every system on the evaluation prompts -> evaluation.json."""
    from pav_jax.booster import Booster
    from pav_jax.evaluate.benchmark import evaluate as benchmark
    from pav_jax.evaluate.systems import systems_named
    from pav_jax.evolve.proposers import chat_proposers

    parts = parts or Parts(config)
    options = config.evaluate
    base = Booster(parts.rewriter, rewriter_sampling(config))
    chats = chat_proposers(config, options.systems)
    systems = systems_named(options.systems, dict(options.files), base, workdir, chats)
    for name, system in systems.items():
        if isinstance(system, os.PathLike) and not (Path(system) / "config.json").exists():
            raise BadInput(
                f"{system}: no booster here yet for evaluate.systems {name!r}; run its stage first"
            )
    with progress_bars() as bars:
        benchmark(
            config,
            systems,
            read_sets(options.prompts, options.count),
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
    from pav_jax.trust.table import show
    from pav_jax.trust.trust import FILE
    from pav_jax.trust.trust import trust as measure

    parts = parts or Parts(config)
    asked = prompts(config.trust.prompts or config.evolve.prompts)
    with progress_bars() as bars:
        result = measure(config, asked, parts.generator, parts.suite, workdir, bars)
    processes.first_only("table", lambda: show(result))
    return Path(workdir) / FILE


def calibrate(config, workdir) -> Path:
    """pool/ -> calibration.json: thresholds and weights that fit its scores. Not a part of
    `run`."""
    from pav_jax.parallel import processes
    from pav_jax.records import Candidate
    from pav_jax.trust.calibrate import FILE, overrides
    from pav_jax.trust.calibrate import calibrate as fit

    pool = read_segments(Path(workdir) / "pool", Candidate)
    if not pool:
        raise BadInput(f"{Path(workdir) / 'pool'}: no candidates yet; run `pav evolve` first")
    result = fit(config, pool, workdir)
    processes.first_only("overrides", lambda: print("\n".join(overrides(result))))
    return Path(workdir) / FILE


def report(config, workdir) -> Path:
    """Whatever is there -> report/index.html."""
    from pav_jax.parallel import processes
    from pav_jax.report.page import write_report

    processes.first_only("report", lambda: write_report(workdir))
    return Path(workdir) / "report" / "index.html"


# ---------------------------------------------------------------------------- what the stages share


class Parts:
    """The models a configuration names, each loaded when first used and kept for the stages that
    follow.

    Of many processes each has its own, on its own devices, and makes its share of the videos.
    """

    def __init__(self, config):
        self.config = config

    @functools.cached_property
    def generator(self):
        from pav_jax.parallel.mesh import generator_meshes
        from pav_jax.video.backends import HTTP
        from pav_jax.video.video_model import VideoModel

        chosen = self.config.generator
        overrides = {f: chosen[f] for f in GENERATION_FIELDS if chosen.get(f) is not None}
        if chosen.scheduler:
            overrides["scheduler"] = chosen.scheduler
        if chosen.options:
            overrides["options"] = chosen.options.to_dict()
        if chosen.path.startswith(HTTP):
            overrides["endpoint"] = chosen.endpoint.to_dict()
        mesh, side = generator_meshes(chosen.batch, chosen.mesh, chosen.side_devices)
        return VideoModel.from_pretrained(
            resolve(chosen.path),
            dtype=chosen.dtype,
            mesh=mesh,
            side=side,
            sequence_attention=chosen.sequence_attention,
            **overrides,
        )

    @functools.cached_property
    def suite(self):
        from pav_jax.rewards.suite import RewardSuite

        suite = RewardSuite.from_config(self.config.rewards)
        if (frames := self.config.generator.num_frames) is not None:
            suite.check_frames(frames)  # before a video is made in vain
        return suite

    @functools.cached_property
    def rewriter(self):
        return load_rewriter(self.config, own=True)


def load_rewriter(config, folder: str | os.PathLike | None = None, own: bool = False) -> Any:
    """The LanguageModel in `folder`, a booster, or the untuned one that the configuration names, on
    `config.mesh`.

    A booster trained from it says in its generation_config.json that it is sampled as
    `config.rewriter` says.

    Args:
      own: of many processes each writes with a copy of its own, spread over its own devices where
        `config.mesh` spreads parameters at all.

    Raises:
      BadInput: of many processes some would have no part of the mesh.
    """
    import dataclasses

    import jax

    from pav_jax.language.language_model import LanguageModel
    from pav_jax.parallel.mesh import batch_shards, make_mesh

    chosen, many = config.rewriter, jax.process_count() > 1
    if many and own:
        devices = jax.local_devices()
        tensor = math.gcd(max(config.mesh.tensor, 1), len(devices))
        fsdp = (
            1 if config.mesh.fsdp == 1 else len(devices) // tensor
        )  # copies that fit one device need no gathering
        mesh = make_mesh(data=-1, fsdp=fsdp, tensor=tensor, devices=devices)
    else:
        mesh = (
            make_mesh(**config.mesh)
            if many or any(size != 1 for size in config.mesh.values())
            else None
        )
        if many and mesh.size < jax.device_count():
            raise BadInput(
                f"config.mesh takes {mesh.size} of the {jax.device_count()} devices of"
                f" {jax.process_count()} processes; it must take all, as with --config.mesh.fsdp=-1"
            )
    shards = batch_shards(mesh) if mesh else 1
    model = LanguageModel.from_pretrained(
        str(folder or resolve(chosen.path)),
        dtype=chosen.dtype,
        mesh=mesh,
        rows=-(-chosen.rows // shards) * shards,
        attention=chosen.attention,
    )
    sampled = dataclasses.asdict(rewriter_sampling(config)) | {"do_sample": chosen.temperature > 0}
    model = dataclasses.replace(model, generation=model.generation | sampled)
    return (
        model.with_template(resolve(chosen.template)) if chosen.template and not folder else model
    )


def booster_before(workdir, round: int) -> Path:
    """Where round N starts: the SFT booster, or that of the round before."""
    name = "sft/booster" if round == 1 else f"round_{round - 1}/booster"
    return _made(workdir, name, "sft" if round == 1 else f"dpo --round={round - 1}")


def check_rankings(config) -> None:
    """Raises BadInput for a `ranking` that only a later stage would refuse, with its videos made in
    vain."""
    from pav_jax.evolve.ranking import named_method

    for section in ("evolve", "select", "prefer"):
        named_method(config, section)


def named_booster(name: str, workdir) -> str | Path | None:
    """Where "sft", "dpo_1", ... lie; None for "base", the untuned rewriter; any other name is a
    folder or hub id."""
    stem, _, number = name.rpartition("_")
    if name == "sft" or (stem == "dpo" and number.isdigit()):
        return booster_before(workdir, 1 if name == "sft" else int(number) + 1)
    return None if name == "base" else resolve(name)


def prompts(path: str) -> list[str]:
    return list(read_prompt_set(resolve(path)).prompts)


def round_prompts(every: list[str], count: int, round: int, rounds: int) -> list[str]:
    """New prompts for each round: its even share of the file, `count` of them where that is set."""
    share = len(every) // rounds
    size = min(count, share) if count else share
    return every[(round - 1) * size : round * size]


def _made(workdir, name: str, command: str) -> Path:
    path = Path(workdir) / name
    if not path.exists():
        raise BadInput(f"{path}: not there yet; run `pav {command}` first")
    return path


def rewriter_sampling(config):
    from pav_jax.language.sampling import Sampling

    chosen = config.rewriter
    return Sampling(
        temperature=chosen.temperature,
        top_k=chosen.top_k,
        top_p=chosen.top_p,
        max_new_tokens=chosen.max_new_tokens,
    )


@contextlib.contextmanager
def progress_bars() -> Iterator[Progress]:
    import jax

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=jax.process_index() > 0) as bars:
        yield bars
