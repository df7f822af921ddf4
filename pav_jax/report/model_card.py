"""A booster's README.md in the form of a model card: base model, training and evaluation."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from pav_jax.storage.addresses import AnyPath, as_path, is_remote
from pav_jax.storage.files import write_atomic
from pav_jax.storage.json_files import read_json

NESTED_SECTIONS = ("model", "lora")  # of training.json, shown field by field


def write_model_card(folder: str | os.PathLike, source: str | os.PathLike) -> AnyPath:
    """Writes `folder/README.md` about a booster.

    Args:
      folder: of the exported booster.
      source: <workdir>/<stage>/booster. The card also uses, where they exist, training.json,
        metrics.jsonl and adapter/ of the stage and evaluation.json of the work directory.

    Returns:
      The path of the card.

    Raises:
      BadInput: one of these files is corrupt.
    """
    path = as_path(folder) / "README.md"
    write_atomic(path, render(as_path(source)).encode())
    return path


def render(source: AnyPath) -> str:
    """The card's text; `source` as in `write_model_card`."""
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
        base=_hub_name(read_json(adapter)["base_model_name_or_path"]) if adapter.exists() else "",
        training=_flatten(read_json(training)) if training.exists() else {},
        metrics=json.loads(metrics.read_text().splitlines()[-1]) if metrics.exists() else {},
        evaluation=_results(read_json(evaluation), system) if evaluation.exists() else [],
        system=system,
    )


def _hub_name(base: str) -> str:
    """The base model's name on the Hugging Face Hub; empty for a local path."""
    return (
        ""
        if os.path.isabs(base) or is_remote(base) or base.startswith((os.pardir, "mini:"))
        else base
    )


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


def _results(evaluation: Mapping[str, Any], system: str) -> list[dict[str, Any]]:
    """Of each prompt set that `system` was evaluated on: name, number of prompts, and gains."""
    return [
        {"name": name, "prompts": entry["prompts"], "delta": entry["systems"][system]["delta"]}
        for name, entry in evaluation["sets"].items()
        if system in entry["systems"]
    ]
