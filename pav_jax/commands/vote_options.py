"""Options of `pav report` for blind human votes."""

import argparse
from typing import Any

from pav_jax.errors import BadInput


def add(command: argparse.ArgumentParser) -> None:
    """Add the options."""
    command.add_argument(
        "--votes-page",
        action="store_true",
        help="write report/votes.html, a page for blind human votes, instead of the report",
    )
    command.add_argument(
        "--systems",
        metavar="A,B",
        help="systems that the votes page compares; default: original and the last booster",
    )
    command.add_argument(
        "--comparisons",
        type=int,
        metavar="N",
        help="most comparisons of a votes page, over all pairs of systems (default 40)",
    )
    command.add_argument(
        "--votes",
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="files that voters downloaded from a votes page, also gs://... or s3://...",
    )


def read(args: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """(the method of the recipe, its options)."""
    if args.votes_page:
        if args.votes:
            raise BadInput(
                "--votes: not together with --votes-page; first the page, then its votes",
                source="--votes",
            )
        options: dict[str, Any] = {}
        if args.systems is not None:
            options["systems"] = [name.strip() for name in args.systems.split(",")]
        if args.comparisons is not None:
            if args.comparisons < 1:
                raise BadInput(
                    f"--comparisons={args.comparisons}: must be at least 1", source="--comparisons"
                )
            options["num_comparisons"] = args.comparisons
        return "votes_page", options
    for option in ("systems", "comparisons"):
        if getattr(args, option) is not None:
            raise BadInput(f"--{option}: add --votes-page", source=f"--{option}")
    return "report", {"votes": args.votes} if args.votes else {}
