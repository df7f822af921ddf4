"""What a configuration names, loaded: generator, reward suite and rewriter."""

import contextlib
import functools
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

from pav_jax.candidates.prompt_sets import read_prompt_set
from pav_jax.errors import BadInput

GENERATION_FIELDS = (
    "num_frames",
    "height",
    "width",
    "num_inference_steps",
    "guidance_scale",
    "use_dynamic_cfg",
    "max_sequence_length",
    "vae_tiling",
    "cfg_parallel",
    "batch_size",
    "guidance_start",
    "guidance_stop",
    "cache_threshold",
    "cache_max_skips",
    "cache_retention",
)


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
        from pav_jax.video.backend import HTTP
        from pav_jax.video.loading import load_generator

        chosen = self.config.generator
        overrides = {f: chosen[f] for f in GENERATION_FIELDS if chosen.get(f) is not None}
        if chosen.scheduler:
            overrides["scheduler"] = chosen.scheduler
        if chosen.options:
            overrides["options"] = chosen.options.to_dict()
        if chosen.path.startswith(HTTP):
            overrides["endpoint"] = chosen.endpoint.to_dict()
        mesh, auxiliary_mesh = generator_meshes(
            chosen.batch_size, chosen.mesh, chosen.encoder_vae_devices
        )
        return load_generator(
            chosen.path,
            dtype=chosen.dtype,
            mesh=mesh,
            auxiliary_mesh=auxiliary_mesh,
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
        str(folder or chosen.path),
        dtype=chosen.dtype,
        mesh=mesh,
        batch_size=-(-chosen.batch_size // shards) * shards,
        attention=chosen.attention,
    )
    sampled = dataclasses.asdict(rewriter_sampling(config)) | {"do_sample": chosen.temperature > 0}
    model = dataclasses.replace(model, generation=model.generation | sampled)
    return model.with_template(chosen.template) if chosen.template and not folder else model


def booster_before(workdir, round: int) -> Path:
    """Where round N starts: the SFT booster, or that of the round before."""
    name = "sft/booster" if round == 1 else f"round_{round - 1}/booster"
    return require_output(workdir, name, "sft" if round == 1 else f"dpo --round={round - 1}")


def named_booster(name: str, workdir) -> str | Path | None:
    """Where "sft", "dpo_1", ... lie; None for "base", the untuned rewriter; any other name is a
    folder or hub id."""
    stem, _, number = name.rpartition("_")
    if name == "sft" or (stem == "dpo" and number.isdigit()):
        return booster_before(workdir, 1 if name == "sft" else int(number) + 1)
    return None if name == "base" else name


def prompts(path: str) -> list[str]:
    return list(read_prompt_set(path).prompts)


def round_prompts(every: list[str], max_prompts: int | None, round: int, rounds: int) -> list[str]:
    """New prompts for each round: its even share of the file, `max_prompts` of them where that is set."""
    share = len(every) // rounds
    size = share if max_prompts is None else min(max_prompts, share)
    return every[(round - 1) * size : round * size]


def require_output(workdir, name: str, command: str) -> Path:
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
