"""`pav adapters`: what LoRA adapters there are."""

import argparse
import dataclasses
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pav_jax.booster.adapter_folders import AdapterSummary

COLUMNS = ("name", "base", "generator", "rank", "size")


def add(commands: Any) -> None:
    """Add the subcommand."""
    command = commands.add_parser(
        "adapters",
        help="list LoRA adapters of boosters",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=(
            "Lists the adapters that come with the package, and those in the given folders, up to"
            " three levels deep:\nname, base model, the generator whose style it writes, rank, and"
            " size of the weights. pav refine and\npav serve take them as --adapter."
        ),
        epilog="""\
examples:
  pav adapters list
  pav adapters list runs/x my-adapters
  pav adapters list my-adapters --json""",
    )
    command.add_argument("action", choices=("list",), help="the only action")
    command.add_argument(
        "folders", nargs="*", metavar="FOLDER", help="also list the adapters in it"
    )
    command.add_argument("--json", action="store_true", help="one JSON object per line")
    command.set_defaults(handler=run, parser=command)


def run(args: argparse.Namespace) -> None:
    """Print one line for each adapter."""
    from pav_jax.booster.adapter_folders import find_adapters, shipped, summarize
    from pav_jax.errors import BadInput

    named = [(folder, name) for name, folder in shipped().items()]
    for root in args.folders:
        named += find_adapters(root)
    summaries = []
    errors = []
    for folder, name in named:
        try:
            summaries.append(summarize(folder, name))
        except BadInput as error:
            errors.append(error)
    if args.json:
        for summary in summaries:
            print(json.dumps(dataclasses.asdict(summary), ensure_ascii=False))
    else:
        _print_table(summaries)
    if errors:
        raise errors[0]


def _print_table(summaries: "list[AdapterSummary]") -> None:
    if not summaries:
        print("none come with this version; pav adapters list FOLDER lists those in a folder")
        return
    rows: list[tuple[str, ...]] = [COLUMNS]
    for summary in summaries:
        size = f"{summary.num_bytes / 1e6:.1f} MB"
        rows.append(
            (summary.name, summary.base or "-", summary.generator or "-", str(summary.rank), size)
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(map(str.ljust, row, widths)).rstrip())
