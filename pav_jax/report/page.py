"""`report/index.html`: one file with everything in it, readable without a network and with stages
still missing."""

import base64
import dataclasses
import functools
import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from etils import epath
from markupsafe import Markup

from pav_jax.candidates import preview, reward_hacking
from pav_jax.candidates.reward_hacking_rounds import read_round_statistics
from pav_jax.records import Measurement
from pav_jax.report import plots
from pav_jax.report.contents import CONTROLS, Contents, read_contents
from pav_jax.storage.files import write_atomic

EXAMPLES, WORST = 8, 4  # per prompt set, where the configuration does not say


@dataclasses.dataclass(frozen=True)
class Card:
    """One system's answer to one prompt, as shown beside the others."""

    system: str
    refined: str
    video: Markup | None  # a data: address
    overall: float | None
    gain: float | None  # of overall, over the original prompt with the same seed
    scores: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Row:
    """A prompt with its cards; `gain` is the last booster's over the original, seeds averaged."""

    prompt: str
    gain: float | None
    cards: list[Card]


def write_report(workdir: str | os.PathLike) -> epath.Path:
    """Writes `<workdir>/report/index.html` and returns its path.

    Raises:
      BadInput: nothing to report there, or a file that cannot be read or written.
    """
    contents = read_contents(workdir)
    path = epath.Path(workdir) / "report" / "index.html"
    write_atomic(path, render(contents, epath.Path(workdir)).encode("utf-8", "replace"))
    return path


def render(contents: Contents, workdir: epath.Path) -> str:
    """The page as text."""
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.PackageLoader("pav_jax.report"),
    )
    environment.filters |= {"number": number, "signed": signed, "direction": direction}
    options = contents.config.get("report") or {}
    style, script = (
        environment.loader.get_source(environment, name)[0] for name in ("style.css", "videos.js")
    )
    return environment.get_template("page.html.j2").render(
        title=options.get("title") or "Prompt booster report",
        style=Markup(style),
        script=Markup(script),
        # no other script may run, whatever a prompt holds
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        headline=headline(contents.evaluation),
        sets=[
            _set(name, entry, contents, workdir, options)
            for name, entry in _sets(contents.evaluation).items()
        ],
        seeds=(contents.evaluation or {}).get("seeds", []),
        contents=contents,
        drawings=_drawings(contents),
        drafts=preview.said(contents.drafts) if contents.drafts else "",
        round_statistics=read_round_statistics(workdir, contents.config),
        limits=reward_hacking,
        held_out=bool((contents.config.get("rewards") or {}).get("held_out")),
        config=(
            json.dumps(
                _without_places(contents.config), indent=2, sort_keys=True, ensure_ascii=False
            )
            if contents.config
            else ""
        ),
    )


# ------------------------------------------------------------------------------------------ numbers


def number(value: float | None, digits: int = 3) -> str:
    """A figure for a table; a dash where there is none."""
    return (
        "–"
        if value is None or not math.isfinite(value)
        else f"{value:.{digits}f}".replace("-", "−")
    )


def signed(value: float | None, digits: int = 3) -> str:
    return (
        "–"
        if value is None or not math.isfinite(value)
        else f"{value:+.{digits}f}".replace("-", "−")
    )


def direction(interval: Sequence[float | None] | None) -> str:
    """CSS class of an interval (mean, low, high).

    Returns:
      "up" if it is above zero, "down" if it is below, "same" if it contains zero or is undefined.
    """
    low, high = interval[1:] if interval else (None, None)
    if low is None or high is None or low <= 0 <= high:
        return "same"
    return "up" if low > 0 else "down"


def _sets(evaluation: Mapping[str, Any] | None) -> dict[str, Any]:
    return dict((evaluation or {}).get("sets", {}))


def last_booster(systems: Sequence[str]) -> str | None:
    """The system the headline is about: the last that is neither the original prompt nor a
    control."""
    boosters = [s for s in systems if s not in ("original", *CONTROLS)]
    return boosters[-1] if boosters else None


def headline(evaluation: Mapping[str, Any] | None) -> list[str]:
    """One sentence per prompt set: what the last booster gains over the user's own prompts, and how
    sure that is."""
    sentences = []
    for name, entry in _sets(evaluation).items():
        booster = last_booster(list(entry["systems"]))
        if booster is None:
            continue
        found = entry["systems"][
            booster
        ]  # "original" is always measured, so the differences are there
        mean, low, high = found["delta"]["overall"]
        if mean is None:
            sentences.append(f"On {name}, {booster} has no score to compare.")
            continue
        change = {"up": "raises", "down": "lowers"}.get(direction((mean, low, high)))
        wins = (
            f"and wins on {100 * found['win_rate']:.0f}\N{NO-BREAK SPACE}% of {entry['prompts']}"
            " prompts"
        )
        interval = f"(95\N{NO-BREAK SPACE}% interval {signed(low)} to {signed(high)})"
        if change:
            sentences.append(
                f"On {name}, {booster} {change} the overall score by {number(abs(mean))} {interval}"
                f" over the user’s own prompts {wins}."
            )
        else:
            sentences.append(
                f"On {name}, {booster} changes the overall score by {signed(mean)} {interval}, "
                f"which is no clear difference from the user’s own prompts, {wins}."
            )
    return sentences


# ----------------------------------------------------------------------------------------- drawings


def _drawings(contents: Contents) -> dict[str, Markup]:
    """Name -> drawing of evolution and training, those whose stage has run."""
    found = {}
    if contents.evolution:
        rounds = [r.number for r in contents.evolution]
        found["evolution"] = plots.lines(
            {
                "best so far": (rounds, [r.best for r in contents.evolution], plots.DPO),
                "mean of the round": (rounds, [r.mean for r in contents.evolution], plots.BASE),
            },
            "round (0: the user’s own prompt)",
            "overall",
            whole_steps=True,
        )
    for name, curve in contents.curves.items():
        if "loss" in curve:
            found[f"{name} loss"] = plots.lines(
                {"loss": (curve["step"], curve["loss"], plots.SFT if name == "sft" else plots.DPO)},
                "step",
                "loss",
            )
        if "reward" in curve:
            found[f"{name} reward"] = plots.lines(
                {"reward": (curve["step"], curve["reward"], plots.WARM)},
                "step",
                "mean reward of the rewrites it drew",
            )
        if accuracy := next(
            (m for m in curve if m.endswith("accuracies") or m.endswith("accuracy")), None
        ):
            found[f"{name} preference accuracy"] = plots.lines(
                {"accuracy": (curve["step"], curve[accuracy], plots.WARM)},
                "step",
                "share of pairs ranked right",
            )
    return found


# -------------------------------------------------------------------------------------------- a set


def _set(
    name: str,
    entry: Mapping[str, Any],
    contents: Contents,
    workdir: epath.Path,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    systems = entry["systems"]
    booster = last_booster(list(systems))
    rewards = list(next(iter(systems.values()))["scores"]) if systems else []
    deltas = {s: e["delta"] for s, e in systems.items() if s != "original" and "delta" in e}
    shown = [s for s in ("original", "base", "sft", booster) if s in systems]
    rows = _rows(
        [m for m in contents.measurements if m.set == name],
        list(dict.fromkeys(shown)),
        booster,
        rewards,
        functools.partial(_data_address, workdir),
    )
    count, worst = options.get("examples", EXAMPLES), options.get("worst", WORST)
    losses = sorted((r for r in rows if r["gain"] is not None), key=lambda r: r["gain"])
    return dict(
        name=name,
        prompts=entry["prompts"],
        systems=systems,
        booster=booster,
        rewards=rewards,
        gains=plots.gains(
            {s: d["overall"] for s, d in deltas.items()}, "gain in overall over the original prompt"
        ),
        reward_gains=plots.reward_gains(deltas, rewards) if deltas and rewards else None,
        examples=(
            [_shown(rows[i * len(rows) // count]) for i in range(min(count, len(rows)))]
            if len(rows) >= count
            else [_shown(r) for r in rows]
        ),
        worst=[_shown(r) for r in losses[:worst]],
    )


def _rows(
    measurements: Sequence[Measurement],
    systems: Sequence[str],
    booster: str | None,
    rewards: Sequence[str],
    address,
) -> list[dict[str, Any]]:
    """Per prompt, in the order of the set: the gain, and a function that builds the row with its
    videos."""
    by_prompt: dict[str, dict[str, list[Measurement]]] = {}
    for m in measurements:
        by_prompt.setdefault(m.prompt, {}).setdefault(m.system, []).append(m)

    def gain(mine: Sequence[Measurement], theirs: Sequence[Measurement]) -> float | None:
        other = {m.seed: m.overall for m in theirs}
        known = [d for m in mine if math.isfinite(d := m.overall - other.get(m.seed, math.nan))]
        return sum(known) / len(known) if known else None

    def build(prompt: str, found: Mapping[str, Sequence[Measurement]], total: float | None) -> Row:
        cards = []
        for system in systems:
            for m in found.get(system, [])[:1]:  # the first seed
                scores = {r: m.scores[r] for r in rewards if r in m.scores}
                mine = None if system == "original" else gain([m], found.get("original", []))
                cards.append(Card(system, m.refined, address(m.video), m.overall, mine, scores))
        return Row(prompt, total, cards)

    rows = []
    for prompt, found in by_prompt.items():
        total = gain(found.get(booster, []), found.get("original", []))
        rows.append(dict(gain=total, build=functools.partial(build, prompt, found, total)))
    return rows


def _shown(row: Mapping[str, Any]) -> Row:
    return row["build"]()


def _data_address(workdir: epath.Path, video: str | None) -> Markup | None:
    path = workdir / video if video else None
    if path is None or not path.exists():
        return None
    return Markup("data:video/mp4;base64," + base64.b64encode(path.read_bytes()).decode())


def _without_places(value: Any) -> Any:
    """The configuration without the folders of the machine it ran on: an absolute path keeps its
    last two parts."""
    if isinstance(value, dict):
        return {k: _without_places(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_without_places(v) for v in value]
    if isinstance(value, str) and os.path.isabs(value):
        return "…/" + "/".join(value.rstrip("/").split("/")[-2:])
    return value
