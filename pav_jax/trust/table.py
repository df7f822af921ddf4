"""A trust report in the terminal: one row per score, and one per judge of alignment."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from pav_jax.candidates.statistics import format_or_dash
from pav_jax.rewards.suite import HELD_OUT
from pav_jax.trust.corruptions import CAPTION_CORRUPTIONS
from pav_jax.trust.verdict import ALIGNMENT_SCORES

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
ALIGNMENT_HEADING = (
    "judge of alignment",
    "prefers the true prompt to a permuted one",
    "AUC",
    *CAPTION_CORRUPTIONS,
    "rank correlation with the others",
    "verdict",
)
PIPE_WIDTH = 200  # columns when standard output is not a terminal


def print_table(result: Mapping[str, Any]) -> None:
    """Prints the content of `trust.json` as tables to standard output."""
    from rich.console import Console

    console = Console(file=sys.stdout)
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    _print_rows(console, table_rows(result), num_texts=2)
    console.print(
        f"{result['num_videos']} videos of {result['num_prompts']} prompts,"
        f" {result['num_corrupted']} of them corrupted. {LEGEND}",
        highlight=False,
    )
    alignment = alignment_rows(result)
    if len(alignment) > 2:
        _print_rows(console, alignment, num_texts=1)


def _print_rows(console: Any, rows: Sequence[tuple[str, ...]], num_texts: int) -> None:
    """Prints a table; columns after the first `num_texts` are aligned to the right."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(*rows[0])
    for column in table.columns[num_texts:]:
        column.justify = "right"
    for row in rows[1:]:
        table.add_row(*map(escape, row))
    console.print(table)


def alignment_rows(result: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The cells of the comparison of ALIGNMENT_SCORES, the heading first.

    Permuted prompts come first: the judge that most often prefers the true prompt is in the first
    row. A judge that fails there measures no alignment, whatever else it responds to.
    """
    judges = {
        name: entry
        for name, entry in result["rewards"].items()
        if name.removeprefix(HELD_OUT) in ALIGNMENT_SCORES
    }
    order = sorted(judges, key=lambda name: -(judges[name]["prompt"]["true_preferred"][0] or 0))
    rows = []
    for name in order:
        prompt = judges[name]["prompt"]
        share, low, high = (format_or_dash(value, ".0%") for value in prompt["true_preferred"])
        agreement = [result["score_correlations"][name][other] for other in order if other != name]
        rows.append(
            (
                name,
                f"{share} ({low}, {high})",
                format_or_dash(prompt["auc"], ".2f"),
                *(
                    format_or_dash(judges[name]["corruptions"][kind]["correlation"][0], "+.2f")
                    for kind in CAPTION_CORRUPTIONS
                ),
                _join(agreement, "+.2f", ", "),
                judges[name]["verdict"],
            )
        )
    return [ALIGNMENT_HEADING, *rows]


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
