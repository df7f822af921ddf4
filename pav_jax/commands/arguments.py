"""Options, and checks of their values, that several commands share."""

import argparse

from pav_jax.errors import BadInput

INT8_CHOICES = {"auto": None, "on": True, "off": False}  # as `Booster.from_pretrained` takes it


def require_at_least(minimum: float, option: str, value: float | None) -> None:
    """Refuse a number below `minimum`; None, an option that was not given, passes.

    Raises:
      BadInput: names the option.
    """
    if value is not None and not value >= minimum:
        raise BadInput(f"{option}={value}: must be at least {minimum}", source=option)


def require_at_most(maximum: float, option: str, value: float | None) -> None:
    """Refuse a number above `maximum`; None, an option that was not given, passes.

    Raises:
      BadInput: names the option and the limit.
    """
    if value is not None and value > maximum:
        raise BadInput(f"{option}={value}: the limit is {maximum:,}", source=option)


def add_prompts(command: argparse.ArgumentParser) -> None:
    """Add the positional PROMPT arguments, which `commands.prompts.read_prompts` reads."""
    command.add_argument(
        "prompts",
        nargs="*",
        metavar="PROMPT",
        help="text, a file (one prompt per line), or - for standard input",
    )


def add_int8(command: argparse.ArgumentParser) -> None:
    """Add `--int8`."""
    command.add_argument(
        "--int8",
        choices=list(INT8_CHOICES),
        default="auto",
        help=(
            "quantize weights and activations to 8-bit integers; auto: on a CPU, for models of 50"
            " million parameters or more, where it takes less than half of the time (default auto)"
        ),
    )
