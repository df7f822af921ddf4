"""A trust report in the terminal: one row per score."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from pav_jax.candidates.statistics import format_or_dash

LEGEND = (
    "AUC: true against permuted prompts. Rank correlation of severity and score: median over the"
    " corruption types that the score should respond to; -1: every step of severity lowers it."
    " Detected: share of these types. Both on the types that tune the threshold | on the others,"
    " which validate it. Words: rank correlation with the prompt's length."
)
HEADING = (
    "score",
    "verdict",
    "true - permuted",
    "AUC",
    "std: seeds / prompts",
    "correlation",
    "detected",
    "words",
    "at lower / upper bound",
)
PIPE_WIDTH = 200  # columns when standard output is not a terminal


def print_table(result: Mapping[str, Any]) -> None:
    """Prints the content of `trust.json` as a table to standard output."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    heading, *rows = table_rows(result)
    table = Table(*heading)
    for column in table.columns[2:]:
        column.justify = "right"
    for row in rows:
        table.add_row(*map(escape, row))
    console = Console(file=sys.stdout)
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    console.print(table)
    console.print(
        f"{result['num_videos']} videos of {result['num_prompts']} prompts,"
        f" {result['num_corrupted']} of them corrupted. {LEGEND}",
        highlight=False,
    )


def table_rows(result: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The table's cells, the heading first."""
    return [HEADING, *(_row(name, entry) for name, entry in result["rewards"].items())]


def _row(name: str, entry: Mapping[str, Any]) -> tuple[str, ...]:
    prompt = entry["prompt"]
    std = entry["std"]
    saturation = entry["saturation"]
    tuning = entry["responses"]["tuning"]
    validation = entry["responses"]["validation"]
    mean, low, high = (format_or_dash(v, "+.3f") for v in prompt["true_minus_permuted"])
    verdict = entry["verdict"]
    if not entry["should_read_prompt"]:
        verdict += " (prompt not needed)"
    return (
        name,
        verdict,
        f"{mean} ({low}, {high})",
        format_or_dash(prompt["auc"], ".2f"),
        _join((std["over_seeds"], std["between_prompts"]), ".3f", " / "),
        _join((tuning["correlation"], validation["correlation"]), "+.2f", " | "),
        _join((tuning["detected"], validation["detected"]), ".0%", " | "),
        format_or_dash(entry["length_correlation"]["prompts"], "+.2f"),
        _join(saturation["published"] or saturation["observed"], ".0%", " / "),
    )


def _join(values: Sequence[float | None], spec: str, separator: str) -> str:
    return separator.join(format_or_dash(value, spec) for value in values)
