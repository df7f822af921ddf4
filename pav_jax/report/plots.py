"""The report's drawings: SVG text with the page's own colours, so that they follow its light and
dark theme."""

import io
import re
from collections.abc import Mapping, Sequence

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure

# Colours that stand for the page's CSS variables: matplotlib writes them, `_svg` replaces them.
STAND_INS = {
    "#010101": "var(--ink)",
    "#020202": "var(--muted)",
    "#030303": "var(--line)",
    "#040404": "var(--original)",
    "#050505": "var(--base)",
    "#060606": "var(--sft)",
    "#070707": "var(--dpo)",
    "#080808": "var(--control)",
    "#090909": "var(--warm)",
}
INK, MUTED, LINE, ORIGINAL, BASE, SFT, DPO, CONTROL, WARM = STAND_INS
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "pav",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": LINE,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 2.0,
    "lines.solid_capstyle": "round",
}


def color_of(system: str) -> str:
    """A system's colour: boosters stand out, controls recede."""
    if system in ("suffix", "shuffled", "oracle"):
        return CONTROL
    return {"original": ORIGINAL, "base": BASE, "sft": SFT}.get(
        system, DPO if system.startswith("dpo") else WARM
    )


def gains(intervals: Mapping[str, Sequence[float]], label: str) -> Markup:
    """Horizontal bars with 95 % intervals: name -> (mean, low, high); a name without figures is
    left out."""
    known = {name: row for name, row in intervals.items() if None not in row}
    with matplotlib.rc_context(STYLE):
        figure, axes = _figure(width=6.4, height=0.42 * max(len(known), 1) + 0.75)
        for place, (name, (mean, low, high)) in enumerate(known.items()):
            axes.barh(place, mean, height=0.58, color=color_of(name), linewidth=0)
            axes.plot([low, high], [place, place], color=INK, linewidth=1.4)
            for end in (low, high):
                axes.plot([end, end], [place - 0.13, place + 0.13], color=INK, linewidth=1.4)
        axes.axvline(0, color=MUTED, linewidth=1)
        axes.set_yticks(range(len(known)), list(known), color=INK)
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.tick_params(length=0)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(label)
        return _svg(figure, label)


def reward_gains(
    deltas: Mapping[str, Mapping[str, Sequence[float]]], rewards: Sequence[str]
) -> Markup:
    """Per reward, in its own scale, each system's gain with its interval, as points over one
    another."""
    with matplotlib.rc_context(STYLE):
        columns = len(rewards) if len(rewards) < 6 else 4
        lines = -(-len(rewards) // columns)
        figure = Figure(
            figsize=(8.4, 0.26 * max(len(deltas), 1) * lines + 0.8 * lines), layout="constrained"
        )
        figure.patch.set_alpha(0)
        grid = figure.subplots(lines, columns, squeeze=False)
        for axes in grid.flat[len(rewards) :]:
            axes.set_visible(False)
        for number, (axes, reward) in enumerate(zip(grid.flat, rewards, strict=False)):
            axes.patch.set_alpha(0)
            for place, (name, delta) in enumerate(deltas.items()):
                mean, low, high = delta.get(reward) or (None, None, None)
                if mean is not None:
                    axes.plot([low, high], [place, place], color=color_of(name), linewidth=2.2)
                    axes.plot([mean], [place], "o", color=color_of(name), markersize=5.5)
            axes.axvline(0, color=MUTED, linewidth=1)
            if (
                max(
                    (abs(v) for d in deltas.values() for v in d.get(reward) or () if v is not None),
                    default=0,
                )
                < 1e-9
            ):
                axes.set_xlim(-1, 1)  # nothing differs; without this the axis shows rounding noise
            axes.set_title(reward, fontsize=10, fontweight="bold", color=INK)
            names = list(deltas) if number % columns == 0 else [""] * len(deltas)
            axes.set_yticks(range(len(deltas)), names, color=INK)
            axes.set_ylim(len(deltas) - 0.4, -0.6)
            axes.grid(axis="y", visible=False)
            axes.tick_params(length=0, labelsize=8.5)
            axes.locator_params(axis="x", nbins=2)  # narrow panels: more labels would touch
            axes.spines["left"].set_visible(False)
        return _svg(figure, "gain over the original prompt, per reward")


def lines(
    series: Mapping[str, tuple[Sequence[float], Sequence[float], str]],
    xlabel: str,
    ylabel: str,
    whole_steps: bool = False,
) -> Markup:
    """Curves: name -> (x, y, colour), the name written at each curve's end."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _figure(width=4.6, height=2.7)
        for name, (x, y, color) in series.items():
            axes.plot(
                x, y, color=color, label=name, marker="o" if len(x) < 13 else None, markersize=4
            )
        if whole_steps:
            axes.xaxis.get_major_locator().set_params(integer=True)
        axes.tick_params(length=0)
        axes.margins(x=0.03, y=0.12)
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        if len(series) > 1:
            axes.legend(fontsize=9)
        return _svg(figure, f"{ylabel} over {xlabel}")


def _figure(width: float, height: float) -> tuple[Figure, matplotlib.axes.Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.subplots()
    axes.patch.set_alpha(0)
    return figure, axes


def _svg(figure: Figure, title: str) -> Markup:
    """The figure as an <svg> element without a fixed size, a date or ids that another drawing could
    have too."""
    buffer = io.StringIO()
    figure.savefig(
        buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
    )
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(
        r' id="(?:figure|axes|patch|line2d|text|matplotlib|xtick|ytick|legend)[^"]*"', "", text
    )
    text = re.sub(
        r'^<svg[^>]*?viewBox="([^"]*)"[^>]*>',
        lambda m: str(
            Markup(
                '<svg role="img" aria-label="{}" viewBox="{}" '
                'xmlns:xlink="http://www.w3.org/1999/xlink">'
            ).format(title, m[1])
        ),
        text,
    )
    for stand_in, variable in STAND_INS.items():
        text = text.replace(stand_in, variable)
    text = re.sub(r" font-family: [^;\"]*sans-serif;", "", text)  # the page's font
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)  # it would style the whole page
    return Markup(text)
