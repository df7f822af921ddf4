"""Check the files and names that later stages of a run read, before the first video is made."""

import os
from typing import Any

from pav_jax.candidates.prompt_file import read_prompt_file
from pav_jax.candidates.prompt_sets import read_prompt_set, read_sets
from pav_jax.checkpoints.hub import local_file
from pav_jax.components import Components
from pav_jax.errors import BadInput
from pav_jax.evaluate.systems import rewrites_from_file
from pav_jax.language.shipped_templates import AUTO
from pav_jax.storage.addresses import AnyPath, as_path, is_remote


def check_run_inputs(config: Any, components: Components, workdir: str | os.PathLike) -> None:
    """Read every file of a run but its models, and find the systems of its evaluation.

    Raises:
      BadInput: the first file or name that cannot be used, with the field that holds it.
    """
    prompt_sets = [read_prompt_set(config.evolve.prompts, "evolve.prompts")]
    if config.rounds:
        prompt_sets.append(read_prompt_set(config.prefer.prompts, "prefer.prompts"))
    sets = read_sets(config.evaluate.prompts, config.evaluate.max_prompts)
    prompts = [prompt for prompt_set in sets.values() for prompt in prompt_set.prompts]
    for name, path in config.evaluate.rewrite_files.items():
        field = f"evaluate.rewrite_files.{name}"
        if path.endswith(".jsonl"):
            read_prompt_file(path, field, "a .jsonl file of rewrites")
            rewrites_from_file(path)(prompts, 0)
        elif not _is_inside(path, workdir):
            _check_booster(path, field)
    _check_systems(config, as_path(workdir))
    if config.rewriter.template not in (None, "", AUTO):
        read_prompt_file(config.rewriter.template, "rewriter.template", "a chat template")
    if config.sft.pairs:
        read_prompt_file(config.sft.pairs, "sft.pairs", "a .jsonl or .json file of pairs")
    _ = components.chat_proposers  # their API keys and templates
    prompt_sets += sets.values()
    if any(prompt_set.images for prompt_set in prompt_sets):
        for prompt_set in prompt_sets:
            prompt_set.check_images(components.generator)


def _is_inside(path: str, workdir: str | os.PathLike) -> bool:
    """Whether the run itself may make the file."""
    folder = os.fspath(workdir)
    if not is_remote(folder) and not is_remote(path):
        folder = os.path.abspath(folder)
        path = os.path.abspath(path)
    return path.startswith(folder.rstrip("/") + "/")


def _check_booster(path: str, field: str) -> None:
    if not (as_path(local_file(path)) / "config.json").exists():
        raise BadInput(
            f"{field}={path}: no booster there; name its folder, or a .jsonl file of rewrites",
            source=path,
            field=field,
        )


def _check_systems(config: Any, workdir: AnyPath) -> None:
    """Refuse the booster of a round that the run does not have."""
    for name in config.evaluate.systems:
        stage, _, number = name.rpartition("_")
        if stage != "dpo" or not number.isdecimal() or name in config.evaluate.rewrite_files:
            continue
        is_made = 1 <= int(number) <= config.rounds
        if not is_made and not (workdir / f"round_{number}" / "booster").exists():
            raise BadInput(
                f"evaluate.systems: {name} is not made by a run of {config.rounds} rounds; leave it"
                " out, or raise rounds",
                source="configuration",
                field="evaluate.systems",
            )
