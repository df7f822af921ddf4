"""A booster's README.md in the form of a model card: base model, training and evaluation."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jinja2

from pav_jax.candidates.statistics import format_or_dash
from pav_jax.report.result_files import EvaluationDeltas, read_metrics, read_result
from pav_jax.storage.addresses import AnyPath, as_path, is_remote
from pav_jax.storage.files import write_atomic
from pav_jax.storage.json_files import read_json
from pav_jax.typed_fields import read_fields

NESTED_SECTIONS = ("model", "lora")  # of training.json, shown field by field


@dataclasses.dataclass(frozen=True)
class AdapterBase:
    """The part of adapter_config.json that the card shows."""

    base_model_name_or_path: str | None = None


@dataclasses.dataclass(frozen=True)
class GeneratorSection:
    """The part of the section `generator` that the card shows."""

    path: str | None = None


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """The part of a work directory's config.json that the card shows."""

    generator: GeneratorSection = GeneratorSection()


def write_model_card(
    folder: str | os.PathLike,
    source: str | os.PathLike,
    adapter_base: str | None = None,
    generator: str | None = None,
    scores: Mapping[str, float] = MappingProxyType({}),
) -> AnyPath:
    """Writes `folder/README.md` about a booster or its adapter.

    Args:
      folder: of the exported booster.
      source: <workdir>/<stage>/booster. The card also uses, where they exist, training.json,
        metrics.jsonl, preferences.jsonl and adapter/ of the stage and evaluation.json,
        sft_pairs.jsonl and config.json of the work directory.
      adapter_base: the base model of the exported adapter; None: the whole booster was exported.
      generator: the video model that it writes for; None: that of the run, if it made videos.
      scores: measurements of the caller's own, by name.

    Returns:
      The path of the card.

    Raises:
      BadInput: one of these files is corrupt.
    """
    path = as_path(folder) / "README.md"
    write_atomic(path, render(as_path(source), adapter_base, generator, scores).encode())
    return path


def render(
    source: AnyPath,
    adapter_base: str | None = None,
    generator: str | None = None,
    scores: Mapping[str, float] = MappingProxyType({}),
) -> str:
    """The card's text; arguments as in `write_model_card`."""
    stage = source.resolve().parent
    adapter = stage / "adapter" / "adapter_config.json"
    training = stage / "training.json"
    metrics = stage / "metrics.jsonl"
    evaluation = stage.parent / "evaluation.json"
    system = "sft" if stage.name == "sft" else stage.name.replace("round_", "dpo_")
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        autoescape=False,
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    )
    return environment.get_template("model_card.md.j2").render(
        name=f"{stage.parent.name}/{stage.name}" if training.exists() else source.name,
        base=_hub_name(adapter) if adapter_base is None else _public_name(adapter_base),
        is_adapter=adapter_base is not None,
        generator=_generator(stage.parent) if generator is None else generator,
        data=_num_examples((stage.parent / "sft_pairs.jsonl", stage / "preferences.jsonl")),
        training=_flatten(read_json(training)) if training.exists() else {},
        metrics=(read_metrics(metrics) or [{}])[-1],
        evaluation=_results(read_result(evaluation, EvaluationDeltas), system),
        system=system,
        scores=scores,
    )


def _hub_name(adapter: AnyPath) -> str:
    """The name of an adapter's base model on the Hugging Face Hub; empty where there is none."""
    if not adapter.exists():
        return ""
    file = read_fields(AdapterBase, read_json(adapter), os.fspath(adapter))
    return _public_name(file.base_model_name_or_path or "")


def _public_name(base: str) -> str:
    is_local = os.path.isabs(base) or is_remote(base) or base.startswith((os.pardir, "mini:"))
    return "" if is_local else base


def _generator(workdir: AnyPath) -> str:
    """The generator whose videos a run made, without the folders above it; empty for none."""
    config = workdir / "config.json"
    if not (workdir / "pool").exists() or not config.exists():
        return ""
    run = read_fields(RunConfig, read_json(config), os.fspath(config))
    path = run.generator.path or ""
    is_local = os.path.isabs(path) or is_remote(path) or path.startswith(os.pardir)
    return path.rstrip("/").rpartition("/")[2] if is_local else path


def _num_examples(files: Sequence[AnyPath]) -> dict[str, int]:
    """The number of lines of each file that exists, by its name."""
    return {file.name: len(file.read_bytes().splitlines()) for file in files if file.exists()}


def _flatten(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of training.json with dotted names; lists as text, without unset fields."""
    flat = {}
    for field, value in fields.items():
        if field in NESTED_SECTIONS and isinstance(value, Mapping):
            flat |= {f"{field}.{name}": inner for name, inner in value.items()}
        else:
            flat[field] = value
    return {
        name: ", ".join(map(str, v)) if isinstance(v, list) else v
        for name, v in flat.items()
        if v is not None
    }


def _results(evaluation: Mapping[str, Any] | None, system: str) -> list[dict[str, Any]]:
    """Of each prompt set that `system` was evaluated on: name, number of prompts, and gains."""
    return [
        {
            "name": name,
            "prompts": entry["prompts"],
            "delta": {
                metric: [format_or_dash(value, "+.3f") for value in row]
                for metric, row in entry["systems"][system].get("delta", {}).items()
            },
        }
        for name, entry in (evaluation or {"sets": {}})["sets"].items()
        if system in entry["systems"]
    ]
