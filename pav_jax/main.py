"""The `pav` command: parses the command line, runs a command, turns user errors into one line.

Exit status: 0 success, 1 a failure that may pass, 2 user error (both one line on standard error),
3 a limit of `budget` is reached (one line too), 130 interrupted.
"""

import argparse
import difflib
import errno
import os
import re
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

from pav_jax.environment import prepare_process, variable_error
from pav_jax.errors import BadInput
from pav_jax.redaction import redact

ABOUT = """\
Prompt boosters for text-to-video models. People type a few words; video models were trained on long
captions. A booster is a language model that rewrites the one into the other. pav finds good
rewrites by generating and scoring videos (evolve, select), fine-tunes a language model on them
(sft), trains it to prefer what scores better (prefer, dpo), and measures the result (evaluate,
report)."""

EXAMPLES = """\
examples:
  pav refine "a girl is playing guitar"                  rewrite a prompt
  pav serve                                              rewrite prompts on a page and by HTTP
  pav generate "a red ball bounces" --out=videos         make a video (embedded generator)
  pav run --config=mini --workdir=runs/mini              run the whole recipe, or continue it
  pav evaluate --workdir=runs/mini && pav report --workdir=runs/mini

`pav COMMAND --help` explains each command."""

LONGEST_COMMAND = 15  # columns of the list of commands


class Parser(argparse.ArgumentParser):
    """Reports a wrong command line in one line, with the nearest option that exists."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **({"allow_abbrev": False} | options))

    def error(self, message: str) -> NoReturn:
        choice = re.search(
            r"argument COMMAND: invalid choice: '(.*?)' \(choose from (.*)\)", message
        )
        if choice is not None:
            names = re.findall(r"[\w-]+", choice[2])
            near = difflib.get_close_matches(choice[1], names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"There are {', '.join(names)}"
            raise BadInput(f"there is no command {choice[1]!r}; {hint}", source="command line")
        near = []
        if "unrecognized" in message:
            option = message.rpartition(": ")[2].split()[0].partition("=")[0]
            if option.startswith("-"):
                near = difflib.get_close_matches(option, self._option_string_actions, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; see {self.prog} --help"
        raise BadInput(message + hint, source="command line")


class CommandList(argparse.RawDescriptionHelpFormatter):
    """Leaves room for the longest command: argparse does not count the indentation of commands."""

    def __init__(self, prog: str):
        super().__init__(prog)
        self._action_max_length = LONGEST_COMMAND


def parser() -> Parser:
    """The command line of all commands."""
    from pav_jax.commands import (
        adapters,
        cache_curve,
        check,
        export,
        fvd,
        generate,
        refine,
        score,
        serve,
        stages,
    )

    top = Parser(prog="pav", description=ABOUT, epilog=EXAMPLES, formatter_class=CommandList)
    commands = top.add_subparsers(
        dest="command", metavar="COMMAND", title="commands", parser_class=Parser
    )
    for group in (
        refine,
        adapters,
        serve,
        generate,
        score,
        fvd,
        stages,
        export,
        check,
        cache_curve,
    ):
        group.add(commands)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run `pav` with `argv` (None: the process's own).

    Returns:
      The exit status.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    name = f"pav {argv[0]}" if argv and not argv[0].startswith("-") else "pav"
    try:
        status = _run(argv)
        sys.stdout.flush()  # a reader that left, or a full disk, shows here at the latest
        line = ""
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
        _leave_other_processes(status, "")
        raise
    except BrokenPipeError:  # the reader of standard output left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
        line = ""
    except BaseException as error:
        status, line = _explain(error)
        if not line:
            _leave_other_processes(status, redact(traceback.format_exc().rstrip()))
            raise
        line = redact(f"{name}: {line}")
    _leave_other_processes(status, line)
    if line:
        print(line, file=sys.stderr)
    return status


def _explain(error: BaseException) -> tuple[int, str]:
    """Return the exit status and the line for an error; no line for a fault of this program."""
    error = variable_error(error) or error
    if isinstance(error, BadInput):
        return error.exit_status, str(error)
    if isinstance(error, KeyboardInterrupt):
        return 130, "interrupted; finished work is kept, run the same command to continue"
    if isinstance(error, MemoryError):
        return 1, (
            "not enough memory; finished work is kept, free some memory or lower the batch size and"
            " run the same command to continue"
        )
    if _is_disk_full(error):
        return 2, (
            "no space left on the disk; finished work is kept, free some space and run the same"
            " command to continue"
        )
    return 1, ""


def _leave_other_processes(status: int, text: str) -> None:
    """Do what `processes.leave` does if this process is one of several."""
    if "pav_jax.parallel.processes" in sys.modules:
        from pav_jax.parallel import processes

        processes.leave(status, text)


def _run(argv: list[str]) -> int:
    from pav_jax.config_overrides import split_overrides

    words, overrides = split_overrides(argv)
    top = parser()
    if not words:
        top.print_help()
        return 0
    args, unknown = top.parse_known_args(words)
    if args.command is None:
        raise BadInput(f"unknown option {unknown[0]}; see pav --help", source="command line")
    if unknown:
        args.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if overrides and not hasattr(args, "config"):
        raise BadInput(
            f"{overrides[0]}: this command takes no configuration; see pav {args.command} --help",
            source="command line",
        )
    args.overrides = overrides
    # one line, without the place in the code
    warnings.formatwarning = (  # pyright: ignore
        lambda message, *_: redact(f"warning: {message}\n")
    )
    # without other processes, commands such as `pav --help` need not import JAX
    if os.environ.get("JAX_COORDINATOR_ADDRESS") or os.environ.get("PAV_DISTRIBUTED"):
        from pav_jax.parallel import processes

        processes.initialize_distributed(f"pav {args.command}")
    return args.handler(args) or 0


def _is_disk_full(error: BaseException | None) -> bool:
    """Whether a full disk caused it; some libraries keep only the text of the system's error."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if "No space left on device" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def console() -> None:
    """The console script."""
    try:
        prepare_process()
    except BadInput as error:
        print(f"pav: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    sys.exit(main())


if __name__ == "__main__":
    console()
