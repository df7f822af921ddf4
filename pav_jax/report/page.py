"""Writes `report/index.html`: one self-contained file, for a finished or an unfinished run."""

import base64
import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from markupsafe import Markup

from pav_jax.candidates import preview, reward_hacking
from pav_jax.candidates.reward_hacking_rounds import read_round_statistics
from pav_jax.redaction import redact
from pav_jax.report import plots
from pav_jax.report.config import ReportConfig
from pav_jax.report.contents import CONTROLS, Contents, read_contents
from pav_jax.report.examples import Examples
from pav_jax.storage.addresses import AnyPath, as_path
from pav_jax.storage.files import write_atomic

DASH = "–"
MINUS = "−"


def write_report(
    workdir: str | os.PathLike,
    *,
    title: str = ReportConfig.title,
    num_examples: int = ReportConfig.num_examples,
    num_worst: int = ReportConfig.num_worst,
) -> AnyPath:
    """Writes `<workdir>/report/index.html`.

    Args:
      workdir: of a run, finished or not; local or on an object store.
      title: of the page.
      num_examples: evenly spaced prompts whose videos are shown, per prompt set.
      num_worst: prompts with the largest losses whose videos are shown, per prompt set.

    Returns:
      The path of the page.

    Raises:
      BadInput: there is nothing to report, or a file cannot be read or written.
    """
    folder = as_path(workdir)
    path = folder / "report" / "index.html"
    html = render(read_contents(folder), folder, title, num_examples, num_worst)
    write_atomic(path, redact(html).encode("utf-8", "replace"))
    return path


def template_environment() -> tuple[jinja2.Environment, jinja2.PackageLoader]:
    """The environment of the report's templates, which escapes what it inserts, and its loader."""
    loader = jinja2.PackageLoader("pav_jax.report")
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=loader,
    )
    return environment, loader


def render(
    contents: Contents, workdir: AnyPath, title: str, num_examples: int, num_worst: int
) -> str:
    """The page as text. Arguments as in `write_report`."""
    environment, loader = template_environment()
    environment.filters |= {
        "number": number,
        "signed": signed,
        "percent": percent,
        "direction": direction,
        "against_half": lambda rate: direction([None if v is None else v - 0.5 for v in rate]),
    }
    style, script = (loader.get_source(environment, name)[0] for name in ("style.css", "videos.js"))
    config = ""
    if contents.config:
        public = shorten_paths(contents.config)
        config = json.dumps(public, indent=2, sort_keys=True, ensure_ascii=False)
    return environment.get_template("page.html.j2").render(
        title=title,
        style=Markup(style),
        script=Markup(script),
        # the page's policy allows no other script, whatever a prompt contains
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        headline=headline(contents.evaluation),
        sets=[
            _prompt_set(name, entry, contents, workdir, num_examples, num_worst)
            for name, entry in _evaluated_sets(contents.evaluation).items()
        ],
        seeds=(contents.evaluation or {}).get("seeds", []),
        contents=contents,
        plots=_stage_plots(contents),
        preview=preview.summary_line(contents.preview) if contents.preview else "",
        round_statistics=read_round_statistics(workdir, contents.config),
        limits=reward_hacking,
        has_held_out=bool((contents.config.get("rewards") or {}).get("held_out")),
        config=config,
    )


# --------------------------------------------------------------------------------------- filters


def number(value: float | None, digits: int = 3) -> str:
    """A number for a table; a dash if it is undefined."""
    if value is None or not math.isfinite(value):
        return DASH
    return f"{value:.{digits}f}".replace("-", MINUS)


def signed(value: float | None, digits: int = 3) -> str:
    """A number with its sign; a dash if it is undefined."""
    if value is None or not math.isfinite(value):
        return DASH
    return f"{value:+.{digits}f}".replace("-", MINUS)


def percent(share: float | None) -> str:
    """A share in percent; a dash if it is undefined."""
    return DASH if share is None else f"{100 * share:.0f}%"


def direction(interval: Sequence[float | None] | None) -> str:
    """CSS class of an interval (mean, low, high).

    Returns:
      "up" if it is above zero, "down" if it is below, "same" if it contains zero or is undefined.
    """
    low, high = interval[1:] if interval else (None, None)
    if low is None or high is None or low <= 0 <= high:
        return "same"
    return "up" if low > 0 else "down"


# -------------------------------------------------------------------------------------- headline


def headline(evaluation: Mapping[str, Any] | None) -> list[str]:
    """One sentence per prompt set: the last booster's gain over the original prompts."""
    sentences = []
    for name, entry in _evaluated_sets(evaluation).items():
        booster = last_booster(list(entry["systems"]))
        if booster is not None:
            result = entry["systems"][booster]
            sentences.append(_headline_sentence(name, booster, result, entry["prompts"]))
    return sentences


def _headline_sentence(
    set_name: str, booster: str, result: Mapping[str, Any], num_prompts: int
) -> str:
    mean, low, high = result.get("delta", {}).get("overall", (None, None, None))
    win_rate = result.get("win_rate")
    if mean is None or win_rate is None:
        return f"On {set_name}, {booster} has no score to compare."
    wins = f"wins on {100 * win_rate:.0f}% of {num_prompts} prompts"
    interval = f"(95% interval {signed(low)} to {signed(high)})"
    verb = {"up": "raises", "down": "lowers"}.get(direction((mean, low, high)))
    if verb:
        return (
            f"On {set_name}, {booster} {verb} the overall score by {number(abs(mean))} {interval}"
            f" over the user’s own prompts and {wins}."
        )
    return (
        f"On {set_name}, {booster} changes the overall score by {signed(mean)} {interval}, which is"
        f" no clear difference from the user’s own prompts, and {wins}."
    )


def last_booster(systems: Sequence[str]) -> str | None:
    """The last system that is neither the original prompt nor a control; None if there is none."""
    boosters = [s for s in systems if s not in ("original", *CONTROLS)]
    return boosters[-1] if boosters else None


def _evaluated_sets(evaluation: Mapping[str, Any] | None) -> dict[str, Any]:
    return dict((evaluation or {}).get("sets", {}))


# ----------------------------------------------------------------------------------------- plots


def _stage_plots(contents: Contents) -> dict[str, Markup]:
    """Name -> plot of evolution and of each training stage that has run."""
    stage_plots = {}
    if contents.evolution:
        numbers = [r.number for r in contents.evolution]
        best = [r.mean_best for r in contents.evolution]
        mean = [r.mean_overall for r in contents.evolution]
        stage_plots["evolution"] = plots.lines(
            {
                "best so far": (numbers, best, plots.DPO),
                "mean of the round": (numbers, mean, plots.BASE),
            },
            "round (0: the user’s own prompt)",
            "overall",
            integer_x=True,
        )
    for stage, curve in contents.curves.items():
        stage_plots |= _training_plots(stage, curve)
    return stage_plots


def _training_plots(stage: str, curve: Mapping[str, Sequence[float]]) -> dict[str, Markup]:
    """Plots of the loss, reward and preference accuracy that a training stage has logged."""
    steps = curve["step"]
    training_plots = {}
    if "loss" in curve:
        color = plots.SFT if stage == "sft" else plots.DPO
        training_plots[f"{stage} loss"] = plots.lines(
            {"loss": (steps, curve["loss"], color)}, "step", "loss"
        )
    if "reward" in curve:
        training_plots[f"{stage} reward"] = plots.lines(
            {"reward": (steps, curve["reward"], plots.WARM)},
            "step",
            "mean reward of the sampled rewrites",
        )
    accuracy = next((m for m in curve if m.endswith(("accuracies", "accuracy"))), None)
    if accuracy is not None:
        training_plots[f"{stage} preference accuracy"] = plots.lines(
            {"accuracy": (steps, curve[accuracy], plots.WARM)},
            "step",
            "share of pairs ranked correctly",
        )
    return training_plots


# ------------------------------------------------------------------------------------ prompt sets


def _prompt_set(
    name: str,
    entry: Mapping[str, Any],
    contents: Contents,
    workdir: AnyPath,
    num_examples: int,
    num_worst: int,
) -> dict[str, Any]:
    """What the template shows of a prompt set; `entry` is its part of `evaluation.json`."""
    systems = entry["systems"]
    booster = last_booster(list(systems))
    rewards = list(next(iter(systems.values()))["scores"]) if systems else []
    deltas = {s: e["delta"] for s, e in systems.items() if s != "original" and e.get("delta")}
    shown = dict.fromkeys(("original", "base", "sft", booster or "original"))
    examples = Examples(
        [m for m in contents.measurements if m.set == name],
        [system for system in shown if system in systems],
        booster,
        rewards,
        workdir,
    )
    return dict(
        name=name,
        prompts=entry["prompts"],
        systems=systems,
        booster=booster,
        rewards=rewards,
        missing={name: e["missing"] for name, e in systems.items() if e.get("missing")},
        unread={
            name: e["units"]["unread"]
            for name, e in systems.items()
            if (e.get("units") or {}).get("unread")
        },
        has_units=any(system.get("units") for system in systems.values()),
        gains=plots.gains(
            {s: d["overall"] for s, d in deltas.items()}, "gain in overall over the original prompt"
        ),
        reward_gains=plots.reward_gains(deltas, rewards) if deltas and rewards else None,
        examples=examples.evenly_spaced(num_examples),
        worst=examples.worst(num_worst),
    )


def shorten_paths(value: Any) -> Any:
    """A configuration whose absolute paths are cut to their last two parts.

    So the page does not disclose the folders of the machine.
    """
    if isinstance(value, dict):
        return {key: shorten_paths(v) for key, v in value.items()}
    if isinstance(value, list):
        return [shorten_paths(v) for v in value]
    if isinstance(value, str) and os.path.isabs(value):
        return "…/" + "/".join(value.rstrip("/").split("/")[-2:])
    return value
