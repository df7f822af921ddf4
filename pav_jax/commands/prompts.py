"""Where a command's prompts come from: the command line, a file, or standard input."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pav_jax.candidates.prompt_text import MAX_CHARACTERS, plain_text
from pav_jax.checkpoints.hub import local_file
from pav_jax.errors import BadInput

EMBEDDED_PROMPTS = "mini:prompts/"


def read_prompts(values: Sequence[str]) -> list[str]:
    """Each value is a prompt, a file with one prompt a line, or `-` for standard input -> the
    prompts, in order.

    No value at all means standard input when something is piped in. Blank lines of a file are left
    out.

    Raises:
      BadInput: no prompt, or one that is empty or too long.
    """
    if not values:
        if sys.stdin is None or sys.stdin.isatty():
            raise BadInput(
                "no prompt; give one in quotes, a file with one a line, or - to read standard input"
            )
        values = ["-"]
    prompts = []
    for value in values:
        if value == "-":
            prompts += _lines(sys.stdin.buffer.read(), "standard input")
        elif value.startswith(EMBEDDED_PROMPTS):
            prompts += _lines(Path(local_file(value)).read_bytes(), value)
        elif os.path.isfile(value):
            with open(value, "rb") as file:
                prompts += _lines(file.read(), value)
        elif os.path.isdir(value):
            raise BadInput(
                f"{value}: this is a folder; give a prompt or a file with one prompt a line"
            )
        else:
            prompts.append(check_prompt(value, "the prompt"))
    return prompts


def _lines(data: bytes, source: str) -> list[str]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise BadInput(
            f"{source}:{line}: not UTF-8 text; a file of prompts has one prompt a line"
        ) from error
    lines = enumerate(text.splitlines(), 1)
    prompts = [check_prompt(line, f"{source}:{number}") for number, line in lines if line.strip()]
    if not prompts:
        raise BadInput(f"{source}: no prompt in it; write one a line")
    return prompts


def check_prompt(text: str, where: str) -> str:
    """The prompt on one line, without control characters; emoji and markup stay.

    Raises:
      BadInput: it is empty, longer than MAX_CHARACTERS, or not UTF-8; the message starts with
        `where`.
    """
    if any(
        "\ud800" <= c <= "\udfff" for c in text
    ):  # what undecodable bytes of a command line become
        raise BadInput(f"{where}: not UTF-8 text; check the terminal's encoding")
    text = plain_text(text)
    if not text:
        raise BadInput(f"{where}: empty; write what the video should show")
    if len(text) > MAX_CHARACTERS:
        raise BadInput(
            f"{where}: {len(text):,} characters long; at most {MAX_CHARACTERS:,} can be used,"
            " shorten it"
        )
    return text
