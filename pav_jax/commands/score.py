"""`pav score`: video files and their prompts in, rewards out."""

import argparse
import csv
import functools
import json
import math
import os
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple


class Row(NamedTuple):
    """A scored video of the output."""

    path: str
    prompt: str
    scores: dict[str, float]
    overall: float


def add(commands: Any) -> None:
    """Add the subcommand."""
    command = commands.add_parser(
        "score",
        help="score videos with the rewards",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="""\
Scores video files against the prompts they were made for, with the rewards of a configuration. A
file that cannot be scored is named on standard error, the others are scored, and the exit status is
2.""",
        epilog="""\
examples:
  pav score videos/*.mp4 --prompts="a red ball bounces"     the same prompt for all
  pav score a.mp4 b.mp4 --prompts=prompts.txt --json        one prompt per line, in the same order
  pav score a.mp4 --prompts="a red ball" --rewards=AES,TVA
  pav score videos/*.mp4 --prompts=prompts.txt --csv > scores.csv""",
    )
    command.add_argument("videos", nargs="+", metavar="VIDEO", help="video files")
    command.add_argument(
        "--prompts", required=True, help="the user's prompt, or a file with one prompt per line"
    )
    command.add_argument(
        "--config",
        help=(
            "the configuration whose rewards are used, also gs://... or s3://...; default: the"
            " embedded ones"
        ),
    )
    command.add_argument(
        "--rewards", help="names of the scores to show, separated by commas; default: all"
    )
    form = command.add_mutually_exclusive_group()
    form.add_argument(
        "--json",
        action="store_true",
        help="one JSON object per line: video, prompt, scores, overall",
    )
    form.add_argument(
        "--csv", action="store_true", help="comma-separated values with a header (RFC 4180)"
    )
    cache = command.add_mutually_exclusive_group()
    cache.add_argument(
        "--cache",
        metavar="DIR",
        help=(
            "folder of cached scores, keyed by the content of the video, the prompt and the"
            " reward's weights; default: ~/.cache/pav_jax/scores"
        ),
    )
    cache.add_argument("--no-cache", action="store_true", help="neither read nor write a cache")
    command.set_defaults(handler=run, parser=command)


def run(args: argparse.Namespace) -> int:
    """Print the scores; exit status 2 where a file or a reward failed."""
    from pav_jax.config import load
    from pav_jax.errors import BadInput

    prompts = _prompts(args)
    config = load(args.config, args.overrides)

    from pav_jax.progress import Progress
    from pav_jax.rewards.file_scorer import FileScorer
    from pav_jax.rewards.score_cache import ScoreCache, default_folder
    from pav_jax.rewards.suite import RewardSuite

    problems: list[BadInput] = []
    suite = RewardSuite.from_config(config.rewards, on_error=problems.append)
    names = _chosen_names(args.rewards, [*suite.names, *suite.held_out])
    for error in problems:
        _complain(str(error))
    suite.use_local_devices()
    cache = None if args.no_cache else ScoreCache(args.cache or default_folder())
    scorer = FileScorer(suite, [*names, *suite.weights], cache)
    with Progress(is_brief=True, transient=True) as progress:
        task = progress.add_task("score", total=len(args.videos), unit="videos")
        results = scorer.score(args.videos, prompts, functools.partial(progress.advance, task))
    for result in results:
        for line in result.problems:
            _complain(line)
    if cache and cache.problem:
        _complain(cache.problem)
    rows = [
        Row(result.path, result.prompt, result.scores, _overall(suite, result.scores))
        for result in results
        if result.scores is not None
    ]
    if rows:
        _print(args, rows, [name for name in names if name in rows[0].scores])
    return 2 if problems or any(result.problems for result in results) else 0


def _prompts(args: argparse.Namespace) -> list[str]:
    """One prompt for each video."""
    from pav_jax.commands.prompts import read_prompts
    from pav_jax.errors import BadInput

    prompts = read_prompts([args.prompts])
    if len(prompts) == 1:
        prompts *= len(args.videos)
    if len(prompts) != len(args.videos):
        raise BadInput(
            f"--prompts={args.prompts}: {len(prompts)} prompts for {len(args.videos)} videos; give"
            " one, or one for each",
            source="--prompts",
        )
    return prompts


def _chosen_names(option: str | None, score_names: list[str]) -> list[str]:
    """The scores that `--rewards` names; all of `score_names` without it."""
    from pav_jax.errors import BadInput

    if not option:
        return score_names
    names = [name.strip() for name in option.split(",") if name.strip()]
    for name in names:
        if name not in score_names:
            raise BadInput(
                f"--rewards: there is no score {name!r}; there are {', '.join(score_names)}",
                source="--rewards",
            )
    return names


def _complain(line: str) -> None:
    print(f"pav score: {line}", file=sys.stderr)


def _overall(suite: Any, scores: dict[str, float]) -> float:
    return float(suite.overall({name: [value] for name, value in scores.items()})[0])


def _print(args: argparse.Namespace, rows: Sequence[Row], names: Sequence[str]) -> None:
    if args.json:
        _print_json(rows, names)
    elif args.csv:
        _print_csv(rows, names)
    else:
        _print_table(rows, names)


def _print_json(rows: Sequence[Row], names: Sequence[str]) -> None:
    for row in rows:
        print(
            json.dumps(
                {
                    "video": _text(row.path),
                    "prompt": row.prompt,
                    "scores": {name: _number(row.scores[name]) for name in names},
                    "overall": _number(row.overall),
                },
                ensure_ascii=False,
            )
        )


def _print_csv(rows: Sequence[Row], names: Sequence[str]) -> None:
    writer = csv.writer(sys.stdout)  # lines end with CR LF, as RFC 4180 has it
    writer.writerow(["video", "prompt", *names, "overall"])
    for row in rows:
        numbers = [_number(value) for value in (*(row.scores[name] for name in names), row.overall)]
        writer.writerow([_text(row.path), row.prompt, *("" if n is None else n for n in numbers)])


def _print_table(rows: Sequence[Row], names: Sequence[str]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("video", "prompt", *names, "overall")
    for column in table.columns[2:]:
        column.justify = "right"
    for row in rows:
        numbers = (*(row.scores[name] for name in names), row.overall)
        table.add_row(
            escape(_text(row.path)),
            escape(row.prompt),
            *(f"{n:.3f}" if math.isfinite(n) else "-" for n in numbers),
        )
    console = Console(file=sys.stdout)
    if not console.is_terminal:  # a file needs every character
        console.width = 200
    console.print(table)


def _number(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None


def _text(path: str) -> str:
    """The path in printable text; undecodable bytes become a replacement character."""
    return os.fsencode(path).decode("utf-8", "replace")
