"""`--for`: the video model to write prompts for."""

import argparse
from collections.abc import Mapping

from pav_jax.errors import BadInput

OPTION = "--for"


def add_style(command: argparse.ArgumentParser) -> None:
    """Add the option."""
    command.add_argument(
        OPTION,
        dest="style",
        metavar="NAME",
        help=(
            "the video model to write prompts for: the name of an adapter that comes with the"
            " package (pav adapters list); default cogvideox"
        ),
    )


def check_style(args: argparse.Namespace, others: Mapping[str, object]) -> None:
    """Raise BadInput if the option is given together with one that names the model otherwise.

    Args:
      others: those options with their values; empty and None count as not given.
    """
    for option, value in others.items():
        if args.style is not None and value:
            raise BadInput(
                f"{OPTION}={args.style}: it chooses model and adapter; leave it or {option} out",
                source=OPTION,
            )
