"""Options of commands that guard what users asked for."""

import argparse
from collections.abc import Sequence
from typing import Any

from pav_jax.commands.arguments import require_at_least, require_at_most
from pav_jax.errors import BadInput

MODES = ("off", "auto", "on")
LANGUAGES = ("en", "any")
FIELDS = ("mode", "keep", "fidelity", "max_words", "language", "samples")
MAX_SAMPLES = 64


def add_guard(command: argparse.ArgumentParser, title: str = "what a rewrite must keep") -> None:
    """Add the options, which `guard_fields` reads, under a title."""
    group = command.add_argument_group(title)
    group.add_argument(
        "--mode",
        choices=MODES,
        help=(
            "on: compare rewrites with the prompt, and keep the prompt where none is faithful;"
            " auto: the same, and leave long or structured prompts alone; off: take the first"
            " rewrite as it is (default: off for the embedded models, else auto)"
        ),
    )
    group.add_argument(
        "--keep",
        action="append",
        metavar="TERM",
        help="a term that rewrites must contain as it is written; may be given several times",
    )
    group.add_argument(
        "--fidelity", type=float, help="least share of the prompt to keep, 0 to 1 (default 0.9)"
    )
    group.add_argument("--max-words", type=int, help="longest rewrite (default: no limit)")
    group.add_argument(
        "--language",
        choices=LANGUAGES,
        help="any: also rewrite prompts that are not English, unchecked (default en)",
    )
    group.add_argument(
        "--samples", type=int, help="rewrites to choose the most faithful from (default 4)"
    )


def guard_fields(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options that were given.

    Raises:
      BadInput: one is out of range.
    """
    require_at_least(0, "--fidelity", args.fidelity)
    require_at_most(1, "--fidelity", args.fidelity)
    require_at_least(3, "--max-words", args.max_words)
    require_at_least(1, "--samples", args.samples)
    require_at_most(MAX_SAMPLES, "--samples", args.samples)
    values = {name: getattr(args, name) for name in FIELDS}
    return {name: value for name, value in values.items() if value is not None}


def check_keep(terms: Sequence[str] | None, prompts: Sequence[str]) -> None:
    """Refuse a term that no prompt has, so that nothing could keep it.

    Raises:
      BadInput: names the term.
    """
    if not terms:
        return
    from pav_jax.booster.prompt_syntax import unknown_term

    if term := unknown_term(terms, prompts):
        raise BadInput(
            f"--keep={term!r}: no prompt contains it; write it as the prompt does", source="--keep"
        )


def terms_in(terms: Sequence[str] | None, prompts: Sequence[str]) -> dict[str, Any]:
    """The field `keep` with the terms that some of the prompts have; nothing without terms."""
    if not terms:
        return {}
    from pav_jax.booster.prompt_syntax import unknown_term

    return {"keep": [term for term in terms if unknown_term([term], prompts) is None]}
