"""`pav score`: video files and their prompts in, rewards out."""

import argparse
import contextlib
import csv
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pav_jax.rewards.file_scorer import ScoredFile

Row = tuple["ScoredFile", float]  # and its overall score


def add(commands: Any) -> None:
    command = commands.add_parser(
        "score",
        help="score videos with the rewards",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=(
            "Scores video files against the prompts they were made for, with the rewards of a"
            " configuration. A file that cannot be scored is named on standard error, the others"
            " are scored, and the exit status is 2."
        ),
        epilog="""\
examples:
  pav score videos/*.mp4 --prompts="a red ball bounces"        the same prompt for all
  pav score a.mp4 b.mp4 --prompts=prompts.txt --json           one prompt a line, in the order of the videos
  pav score a.mp4 --prompts="a red ball" --rewards=AES,TVA
  pav score videos/*.mp4 --prompts=prompts.txt --csv > scores.csv""",
    )
    command.add_argument("videos", nargs="+", metavar="VIDEO", help="video files")
    command.add_argument(
        "--prompts", required=True, help="the user's prompt, or a file with one a line"
    )
    command.add_argument(
        "--config", help="a configuration whose rewards are used; default: the embedded ones"
    )
    command.add_argument(
        "--rewards", help="names of the rewards to show, separated by commas; default: all"
    )
    form = command.add_mutually_exclusive_group()
    form.add_argument(
        "--json", action="store_true", help="one JSON object a line: video, prompt, scores, overall"
    )
    form.add_argument(
        "--csv", action="store_true", help="comma-separated values with a header (RFC 4180)"
    )
    kept = command.add_mutually_exclusive_group()
    kept.add_argument(
        "--cache",
        metavar="DIR",
        help=(
            "where scores are kept, by what is in the video, the prompt and "
            "the reward's weights; default: ~/.cache/pav_jax/scores"
        ),
    )
    kept.add_argument(
        "--no-cache", action="store_true", help="score everything anew and keep nothing"
    )
    command.set_defaults(handler=run, parser=command)


def run(args: argparse.Namespace) -> int:
    from pav_jax.commands.prompts import read_prompts
    from pav_jax.config import load
    from pav_jax.errors import BadInput

    prompts = read_prompts([args.prompts])
    if len(prompts) == 1:
        prompts *= len(args.videos)
    if len(prompts) != len(args.videos):
        raise BadInput(
            f"--prompts={args.prompts}: {len(prompts)} prompts for {len(args.videos)} videos; give"
            " one, or one for each"
        )
    config = load(args.config, args.overrides)

    from pav_jax.rewards.file_scorer import FileScorer
    from pav_jax.rewards.score_cache import ScoreCache, default_folder
    from pav_jax.rewards.suite import RewardSuite

    problems: list[BadInput] = []
    suite = RewardSuite.from_config(config.rewards, on_error=problems.append)
    shown = [*suite.names, *suite.held_out]
    if args.rewards:
        names, shown = shown, [name.strip() for name in args.rewards.split(",") if name.strip()]
        if unknown := [name for name in shown if name not in names]:
            raise BadInput(
                f"--rewards: there is no reward {unknown[0]!r} here; there are {', '.join(names)}"
            )
    for error in problems:
        _complain(str(error))
    suite.use_local_devices()
    cache = None if args.no_cache else ScoreCache(args.cache or default_folder())
    scorer = FileScorer(suite, [*shown, *suite.weights], cache)
    with _progress(len(args.videos)) as advance:
        results = scorer.score(args.videos, prompts, advance)
    for line in (line for result in results for line in result.problems):
        _complain(line)
    if cache and cache.problem:
        _complain(cache.problem)
    rows = [
        (result, _overall(suite, result.scores)) for result in results if result.scores is not None
    ]
    if rows:
        write = _json if args.json else _csv if args.csv else _table
        write(rows, [name for name in shown if name in rows[0][0].scores])
    return 2 if problems or any(result.problems for result in results) else 0


def _complain(line: str) -> None:
    print(f"pav score: {line}", file=sys.stderr)


@contextlib.contextmanager
def _progress(files: int) -> Iterator[Callable[[int], None]]:
    """A bar on standard error, where that is a terminal; gives the function that moves it."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("scoring", total=files)
        yield lambda done: progress.advance(task, done)


def _overall(suite: Any, scores: dict[str, float]) -> float:
    return float(suite.overall({name: [value] for name, value in scores.items()})[0])


# ----------------------------------------------------------------------------------------- printing


def _json(rows: Sequence[Row], names: Sequence[str]) -> None:
    for result, overall in rows:
        print(
            json.dumps(
                {
                    "video": _text(result.path),
                    "prompt": result.prompt,
                    "scores": {name: _number(result.scores[name]) for name in names},
                    "overall": _number(overall),
                },
                ensure_ascii=False,
            )
        )


def _csv(rows: Sequence[Row], names: Sequence[str]) -> None:
    writer = csv.writer(sys.stdout)  # lines end with CR LF, as RFC 4180 has it
    writer.writerow(["video", "prompt", *names, "overall"])
    for result, overall in rows:
        numbers = [_number(value) for value in (*(result.scores[name] for name in names), overall)]
        writer.writerow(
            [_text(result.path), result.prompt, *("" if n is None else n for n in numbers)]
        )


def _table(rows: Sequence[Row], names: Sequence[str]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("video", "prompt", *names, "overall")
    for column in table.columns[2:]:
        column.justify = "right"
    for result, overall in rows:
        numbers = (*(result.scores[name] for name in names), overall)
        table.add_row(
            escape(_text(result.path)),
            escape(result.prompt),
            *(f"{n:.3f}" if math.isfinite(n) else "-" for n in numbers),
        )
    console = Console(file=sys.stdout)
    if not console.is_terminal:  # a file or a pipe wants every character, not the terminal's width
        console.width = 200
    console.print(table)


def _number(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None


def _text(path: str) -> str:
    """The path with a mark in place of bytes that are no text, which could not be printed."""
    return os.fsencode(path).decode("utf-8", "replace")
