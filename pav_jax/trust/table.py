"""A trust report in the terminal: one row for each score, one screen for all."""

import sys
from collections.abc import Mapping
from typing import Any

LEGEND = """\
damage: median rank correlation of severity and score (-1: every step costs), and share of claimed kinds noticed,
on the half of the kinds that fixes the threshold | on the half that verifies it; words: rank correlation with length"""


def show(result: Mapping[str, Any]) -> None:
    """Prints the table of a `trust.json` to standard output."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    heading, *rows = one_screen(result)
    table = Table(*heading)
    for column in table.columns[2:]:
        column.justify = "right"
    for row in rows:
        table.add_row(*map(escape, row))
    console = Console(file=sys.stdout)
    if not console.is_terminal:  # a file or a pipe wants every character, not the terminal's width
        console.width = 200
    console.print(table)
    console.print(
        f"{result['videos']} videos of {result['prompts']} prompts, {result['degraded']} of them"
        f" damaged. {LEGEND}",
        highlight=False,
    )


def one_screen(result: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The rows as text, the heading first."""
    rows = [
        (
            "score",
            "verdict",
            "true - permuted",
            "AUC",
            "deviation: seeds / prompts",
            "damage",
            "noticed",
            "words",
            "at low / high end",
        )
    ]
    for name, entry in result["rewards"].items():
        shuffle, noise, half, ends = (
            entry["shuffle"],
            entry["noise"],
            entry["halves"],
            entry["saturation"],
        )
        mean, low, high = (_text(v, "+.3f") for v in shuffle["minus_permuted"])
        rows.append(
            (
                name,
                entry["verdict"] + ("" if entry["reads_prompt"] else " (reads no prompt)"),
                f"{mean} ({low}, {high})",
                _text(shuffle["auc"], ".2f"),
                f"{_text(noise['seeds'], '.3f')} / {_text(noise['prompts'], '.3f')}",
                (
                    f"{_text(half['fixed']['correlation'], '+.2f')} |"
                    f" {_text(half['verified']['correlation'], '+.2f')}"
                ),
                (
                    f"{_text(half['fixed']['noticed'], '.0%')} |"
                    f" {_text(half['verified']['noticed'], '.0%')}"
                ),
                _text(entry["length"]["prompts"], "+.2f"),
                " / ".join(_text(v, ".0%") for v in ends["published"] or ends["seen"]),
            )
        )
    return rows


def _text(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
