"""The report's plots: SVG in the page's CSS colours, to follow its light or dark theme."""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pav_jax.report.contents import CONTROLS

# Placeholder colours for the page's CSS variables: matplotlib writes them, `_svg` replaces them.
CSS_VARIABLES = {
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
INK, MUTED, LINE, ORIGINAL, BASE, SFT, DPO, CONTROL, WARM = CSS_VARIABLES
MANY_SYSTEMS = 13
MAX_NAME = 20  # characters of a system's name
STYLE: dict[Any, Any] = {
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
    """The colour of a system: strong for boosters, pale for controls."""
    if system in CONTROLS:
        return CONTROL
    return {"original": ORIGINAL, "base": BASE, "sft": SFT}.get(
        system, DPO if system.startswith("dpo") else WARM
    )


def short_name(name: str) -> str:
    """A name without its middle, which leaves a plot room for its bars; tables have all of it."""
    if len(name) <= MAX_NAME:
        return name
    half = MAX_NAME // 2
    return f"{name[:half]}…{name[1 - half :]}"


def gains(intervals: Mapping[str, Sequence[float]], label: str) -> Markup:
    """Horizontal bars with 95 % intervals.

    Args:
      intervals: system -> (mean, low, high); systems with None are left out.
      label: of the horizontal axis.
    """
    complete = {name: row for name, row in intervals.items() if None not in row}
    with matplotlib.rc_context(STYLE):
        row_height = 0.42 if len(complete) < MANY_SYSTEMS else 0.26
        figure, axes = _figure(width=5.0, height=row_height * max(len(complete), 1) + 0.75)
        means_S, lows_S, highs_S = np.reshape([*complete.values()], (-1, 3)).T
        y_S = np.arange(len(complete))
        axes.barh(y_S, means_S, height=0.58, color=[*map(color_of, complete)], linewidth=0)
        # limits, not errors: a bootstrap interval may exclude the mean
        axes.hlines(y_S, lows_S, highs_S, color=INK, linewidth=1.4)
        for ends_S in (lows_S, highs_S):
            axes.vlines(ends_S, y_S - 0.13, y_S + 0.13, color=INK, linewidth=1.4)
        axes.axvline(0, color=MUTED, linewidth=1)
        axes.set_yticks(range(len(complete)), list(map(short_name, complete)), color=INK)
        axes.set_ylim(max(len(complete), 1) - 0.4, -0.6)
        axes.grid(axis="y", visible=False)
        axes.tick_params(length=0)
        axes.spines["left"].set_visible(False)
        figure.supxlabel(label, fontsize=10, color=MUTED)  # of the axes it may be cut off
        return _svg(figure, label)


def reward_gains(
    deltas: Mapping[str, Mapping[str, Sequence[float]]], rewards: Sequence[str]
) -> Markup:
    """One panel per reward, on its own scale, with each system's gain and 95 % interval.

    Args:
      deltas: system -> reward -> (mean, low, high).
      rewards: to show, at most four or five in a row.
    """
    num_columns = len(rewards) if len(rewards) < 6 else 4
    num_rows = -(-len(rewards) // num_columns)
    height = 0.26 * max(len(deltas), 1) * num_rows + 0.8 * num_rows
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.4, height), layout="constrained")
        figure.patch.set_alpha(0)
        grid = figure.subplots(num_rows, num_columns, squeeze=False)
        for axes in grid.flat[len(rewards) :]:
            axes.set_visible(False)
        for i, (axes, reward) in enumerate(zip(grid.flat, rewards, strict=False)):
            _reward_panel(axes, reward, deltas, has_labels=i % num_columns == 0)
        return _svg(figure, "gain over the original prompt, per reward")


def _reward_panel(
    axes: Axes,
    reward: str,
    deltas: Mapping[str, Mapping[str, Sequence[float]]],
    has_labels: bool,
) -> None:
    """Each system's gain in one reward as a point with its interval."""
    axes.patch.set_alpha(0)
    rows = {
        y: (color_of(name), *delta[reward])
        for y, (name, delta) in enumerate(deltas.items())
        if None not in (delta.get(reward) or (None,))
    }
    if rows:
        colors, means, lows, highs = zip(*rows.values(), strict=True)
        axes.hlines([*rows], lows, highs, colors=colors, linewidth=2.2)
        axes.scatter(means, [*rows], s=30, c=colors, linewidths=0)
    axes.axvline(0, color=MUTED, linewidth=1)
    values = [v for delta in deltas.values() for v in delta.get(reward) or () if v is not None]
    if max(map(abs, values), default=0) < 1e-9:
        axes.set_xlim(-1, 1)  # all equal: an automatic scale would show rounding noise
    axes.set_title(reward, fontsize=10, fontweight="bold", color=INK)
    labels = list(map(short_name, deltas)) if has_labels else [""] * len(deltas)
    axes.set_yticks(range(len(deltas)), labels, color=INK)
    axes.set_ylim(len(deltas) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.tick_params(length=0, labelsize=8.5)
    axes.locator_params(axis="x", nbins=2)  # panels are narrow: more labels would overlap
    axes.spines["left"].set_visible(False)


def lines(
    series: Mapping[str, tuple[Sequence[float], Sequence[float], str]],
    xlabel: str,
    ylabel: str,
    integer_x: bool = False,
) -> Markup:
    """Line plot.

    Args:
      series: name -> (x, y, colour).
      xlabel, ylabel: of the axes.
      integer_x: whether to label integers only on the horizontal axis.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = _figure(width=4.6, height=2.7)
        for name, (x, y, color) in series.items():
            axes.plot(
                x, y, color=color, label=name, marker="o" if len(x) < 13 else None, markersize=4
            )
        if integer_x:
            axes.locator_params(axis="x", integer=True)
        axes.tick_params(length=0)
        axes.margins(x=0.03, y=0.12)
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        if len(series) > 1:
            axes.legend(fontsize=9)
        return _svg(figure, f"{ylabel} over {xlabel}")


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.subplots()
    axes.patch.set_alpha(0)
    return figure, axes


def _svg(figure: Figure, title: str) -> Markup:
    """The figure as an <svg> element without a fixed size, date, or ids shared with other plots."""
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
    for placeholder, variable in CSS_VARIABLES.items():
        text = text.replace(placeholder, variable)
    text = re.sub(r" font-family: [^;\"]*sans-serif;", "", text)  # the page's font
    text = re.sub(
        r"<style.*?</style>", "", text, flags=re.DOTALL
    )  # else they would apply to the whole page
    return Markup(text)
