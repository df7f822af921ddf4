"""`pav score`: video files and their prompts in, rewards out."""

import argparse
import json
import math
import sys
from typing import Any


def add(commands: Any) -> None:
    command = commands.add_parser(
        "score", help="score videos with the rewards", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Scores video files against the prompts they were made for, with the rewards of a configuration.",
        epilog="""\
examples:
  pav score videos/*.mp4 --prompts="a red ball bounces"        the same prompt for all
  pav score a.mp4 b.mp4 --prompts=prompts.txt --json           one prompt a line, in the order of the videos
  pav score a.mp4 --prompts="a red ball" --rewards=AES,TVA""")
    command.add_argument("videos", nargs="+", metavar="VIDEO", help="video files")
    command.add_argument("--prompts", required=True, help="the user's prompt, or a file with one a line")
    command.add_argument("--config", help="a configuration whose rewards are used; default: the embedded ones")
    command.add_argument("--rewards", help="names of the rewards to show, separated by commas; default: all")
    command.add_argument("--json", action="store_true", help="one JSON object a line: video, prompt, scores, overall")
    command.set_defaults(handler=run, parser=command)


def run(args: argparse.Namespace) -> None:
    from pav_jax.commands.prompts import read_prompts
    from pav_jax.config import load
    from pav_jax.errors import BadInput

    prompts = read_prompts([args.prompts])
    if len(prompts) == 1:
        prompts *= len(args.videos)
    if len(prompts) != len(args.videos):
        raise BadInput(f"--prompts={args.prompts}: {len(prompts)} prompts for {len(args.videos)} videos; give one, or "
                       "one for each")
    config = load(args.config, args.overrides)

    import numpy as np

    from pav_jax.rewards.suite import RewardSuite
    from pav_jax.video.files import read_mp4

    suite = RewardSuite.from_config(config.rewards)
    shown = list(suite.names)
    if args.rewards:
        shown = [name.strip() for name in args.rewards.split(",") if name.strip()]
        if unknown := [name for name in shown if name not in suite.names]:
            raise BadInput(f"--rewards: there is no reward {unknown[0]!r} here; there are {', '.join(suite.names)}")
    rows = []
    for path, prompt in zip(args.videos, prompts, strict=True):
        scores = suite.score(np.asarray(read_mp4(path))[None], [prompt])
        overall = float(np.asarray(suite.overall(scores))[0])
        rows.append((path, prompt, {k: float(scores[k][0]) for k in shown if k in scores}, overall))
    if args.json:
        for path, prompt, scores, overall in rows:
            print(json.dumps({"video": path, "prompt": prompt, "scores": {k: _number(v) for k, v in scores.items()},
                              "overall": _number(overall)}, ensure_ascii=False))
    else:
        _table(rows, [name for name in shown if name in rows[0][2]])


def _number(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None


def _table(rows: list[tuple[str, str, dict[str, float], float]], names: list[str]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("video", "prompt", *names, "overall")
    for column in table.columns[2:]:
        column.justify = "right"
    for path, prompt, scores, overall in rows:
        table.add_row(escape(path), escape(prompt), *(f"{scores[n]:.3f}" for n in names), f"{overall:.3f}")
    console = Console(file=sys.stdout)
    if not console.is_terminal:  # a file or a pipe wants every character, not the terminal's width
        console.width = 200
    console.print(table)
