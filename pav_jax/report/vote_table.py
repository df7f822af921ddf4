"""Votes in the terminal: one row per pair of systems."""

import sys
from collections.abc import Mapping
from typing import Any

from pav_jax.candidates.statistics import format_or_dash

HEADING = ("system", "against", "set", "win rate", "wins / ties / losses", "prompts", "voters")
LEGEND = (
    "Win rate: share of votes for the system, a tie counts half, each prompt once; 95 % interval"
    " over prompts (Wilson). Agreement of voters is Krippendorff's alpha, 1: all agree, 0: as by"
    " chance."
)
PIPE_WIDTH = 200  # columns when standard output is not a terminal


def print_votes(result: Mapping[str, Any]) -> None:
    """Print the content of `votes.json` as a table to standard output."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(*HEADING)
    for row in result["pairs"]:
        rate, low, high = (format_or_dash(value, ".1%") for value in row["win_rate"])
        cells = (
            *row["systems"],
            row["set"] or "all",
            f"{rate} ({low}, {high})",
            f"{row['wins']} / {row['ties']} / {row['losses']}",
            str(row["prompts"]),
            str(row["voters"]),
        )
        table.add_row(*map(escape, cells))
    console = Console(file=sys.stdout)
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    console.print(table)
    agreement = result["agreement"]
    voters = "voter" if result["voters"] == 1 else "voters"
    console.print(
        f"{result['votes']} votes of {result['voters']} {voters};"
        f" {format_or_dash(result['left_share'], '.0%')} of the decided ones chose the left side."
        f" Agreement on {agreement['prompts']} prompts with several votes:"
        f" {format_or_dash(agreement['alpha'], '+.2f')},"
        f" {format_or_dash(agreement['same'], '.0%')} equal votes. {LEGEND}",
        highlight=False,
        markup=False,
    )
