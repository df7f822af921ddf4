"""The `pav` command. It parses, hands over to a command, and turns what the user can mend into one
line.

Exit status: 0 done, 2 bad input (one line on standard error), 130 interrupted by the user.
"""

import argparse
import difflib
import errno
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pav_jax.errors import BadInput

ABOUT = """\
Prompt boosters for text-to-video models. People type a few words, video models were trained on long captions; a booster
is a language model that rewrites the one into the other. pav finds good rewrites by generating and scoring videos
(evolve, select), tunes a language model on them (sft), lets it prefer what scores better (prefer, dpo), and measures
whether all that helped (evaluate, report)."""

EXAMPLES = """\
examples:
  pav refine "a girl is playing guitar"                        rewrite one prompt with the embedded booster
  pav generate "a red ball bounces" --out=videos               make a video with the embedded generator
  pav run --config=configs/mini.py --workdir=runs/mini         the whole recipe; run it again to go on
  pav evaluate --workdir=runs/mini && pav report --workdir=runs/mini

`pav COMMAND --help` explains each command."""


class Parser(argparse.ArgumentParser):
    """Reports a wrong command line as one line, with the nearest option that exists."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **({"allow_abbrev": False} | options))

    def error(self, message: str) -> None:
        if choice := re.search(
            r"argument COMMAND: invalid choice: '(.*?)' \(choose from (.*)\)", message
        ):
            names = re.findall(r"[\w-]+", choice[2])
            near = difflib.get_close_matches(choice[1], names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"There are {', '.join(names)}"
            raise BadInput(f"there is no command {choice[1]!r}; {hint}")
        wrong = (
            message.rpartition(": ")[2].split()[0].partition("=")[0]
            if "unrecognized" in message
            else ""
        )
        near = (
            difflib.get_close_matches(wrong, self._option_string_actions, n=1)
            if wrong.startswith("-")
            else []
        )
        hint = f"; did you mean {near[0]}?" if near else f"; see {self.prog} --help"
        raise BadInput(message + hint)


class CommandList(argparse.RawDescriptionHelpFormatter):
    """Leaves room for the longest command: argparse forgets that commands are indented once more
    than options."""

    def __init__(self, prog: str):
        super().__init__(prog)
        self._action_max_length = 15


def parser() -> Parser:
    """The command line of all commands."""
    from pav_jax.commands import cache_curve, check, export, fvd, generate, refine, score, stages

    top = Parser(prog="pav", description=ABOUT, epilog=EXAMPLES, formatter_class=CommandList)
    commands = top.add_subparsers(
        dest="command", metavar="COMMAND", title="commands", parser_class=Parser
    )
    for group in (refine, generate, score, fvd, stages, export, check, cache_curve):
        group.add(commands)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `pav` with `argv` (the process's own when None) -> exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    name = f"pav {argv[0]}" if argv and not argv[0].startswith("-") else "pav"
    try:
        return _run(argv)
    except BadInput as error:
        return _say(f"{name}: {error}", 2)
    except KeyboardInterrupt:
        return _say(
            f"{name}: interrupted; finished work is kept, run the same command to go on", 130
        )
    except BrokenPipeError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # the reader left, as `head` does
        return 0
    except Exception as error:
        if not _disk_full(error):
            raise
        return _say(
            f"{name}: no space left on the disk; finished work is kept, make room and run the same"
            " command to go on",
            2,
        )


def _run(argv: list[str]) -> int:
    from pav_jax.config import split_overrides

    rest, overrides = split_overrides(argv)
    top = parser()
    if not rest:
        top.print_help()
        return 0
    args, unknown = top.parse_known_args(rest)
    if args.command is None:
        raise BadInput(f"unknown option {unknown[0]}; see pav --help")
    if unknown:
        args.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if overrides and not hasattr(args, "config"):
        raise BadInput(
            f"{overrides[0]}: this command takes no configuration; see pav {args.command} --help"
        )
    args.overrides = overrides
    if os.environ.get("JAX_COORDINATOR_ADDRESS") or os.environ.get(
        "PAV_DISTRIBUTED"
    ):  # else JAX need not load
        from pav_jax.parallel import processes

        processes.initialize_distributed()
    return args.handler(args) or 0


def _say(line: str, status: int) -> int:
    print(line, file=sys.stderr)
    return status


def _disk_full(error: BaseException | None) -> bool:
    """Whether a full disk is at the bottom of it; some libraries keep only the text of the system's
    error."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if "No space left on device" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def console() -> None:
    """The console script. Sets what JAX reads when it starts, unless the environment already
    does."""
    # processor cores as devices, see `parallel.mesh.batch_mesh`: 1, 2 or 4 of them, which divide
    # most batches
    cores = os.cpu_count() or 1
    os.environ.setdefault("JAX_NUM_CPU_DEVICES", str(next(n for n in (4, 2, 1) if n <= cores)))
    # programs compiled once serve every later stage and command
    cache = (
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pav_jax" / "compiled"
    )
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
    sys.exit(main())


if __name__ == "__main__":
    console()
