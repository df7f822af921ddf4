"""A booster's README.md, as model hubs show it: what it is, how it was trained, what it was
measured at."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from pav_jax.storage.files import write_atomic
from pav_jax.storage.json_files import read_json

SECTIONS = ("model", "lora")  # of training.json: shown field by field


def write_model_card(folder: str | os.PathLike, source: str | os.PathLike) -> Path:
    """Writes `folder/README.md` about the booster at `source`, from what its work directory still
    holds.

    `source` is <workdir>/<stage>/booster; beside it lie training.json and metrics.jsonl, above it
    evaluation.json.
    """
    path = Path(folder) / "README.md"
    write_atomic(path, render(Path(source)).encode())
    return path


def render(source: Path) -> str:
    """The card's text."""
    stage = source.resolve().parent
    adapter, training = stage / "adapter" / "adapter_config.json", stage / "training.json"
    metrics, evaluation = stage / "metrics.jsonl", stage.parent / "evaluation.json"
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
        training=_flat(read_json(training)) if training.exists() else {},
        metrics=json.loads(metrics.read_text().splitlines()[-1]) if metrics.exists() else {},
        evaluation=_sets(read_json(evaluation), system) if evaluation.exists() else [],
        system=system,
    )


def _hub_name(base: str) -> str:
    """A name that means something elsewhere: paths do not."""
    return "" if os.path.isabs(base) or base.startswith((os.pardir, "mini:")) else base


def _flat(fields: Mapping[str, Any]) -> dict[str, Any]:
    flat = {}
    for field, value in fields.items():
        if field in SECTIONS and isinstance(value, Mapping):
            flat |= {f"{field}.{name}": inner for name, inner in value.items()}
        else:
            flat[field] = value
    return {
        name: ", ".join(map(str, v)) if isinstance(v, list) else v
        for name, v in flat.items()
        if v is not None
    }


def _sets(evaluation: Mapping[str, Any], system: str) -> list[dict[str, Any]]:
    return [
        {"name": name, "prompts": found["prompts"], "delta": found["systems"][system]["delta"]}
        for name, found in evaluation["sets"].items()
        if system in found["systems"]
    ]
