"""Read a command's prompts from the command line, a file, or standard input."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pav_jax.candidates.prompt_text import MAX_CHARACTERS, plain_text
from pav_jax.checkpoints.hub import local_file
from pav_jax.errors import BadInput
from pav_jax.storage.addresses import PREFIXES, as_path

EMBEDDED_PROMPTS = "mini:prompts/"


def read_prompts(values: Sequence[str]) -> list[str]:
    """Read prompts in order.

    Args:
      values: each is a prompt, a file with one prompt per line (blank lines are skipped), or `-`
        for standard input. No value means standard input where something is piped in.

    Raises:
      BadInput: no prompt, or one that is empty, too long or not UTF-8.
    """
    if not values:
        if sys.stdin is None or sys.stdin.isatty():
            raise BadInput(
                "no prompt; give one in quotes, a file with one per line, or - to read standard"
                " input",
                source="PROMPT",
            )
        values = ["-"]
    prompts = []
    for value in values:
        if value == "-":
            prompts += _lines(sys.stdin.buffer.read(), "standard input")
        elif value.startswith(EMBEDDED_PROMPTS):
            prompts += _lines(Path(local_file(value)).read_bytes(), value)
        elif value.startswith(PREFIXES) or os.path.isfile(value):
            prompts += _lines(_read(value), value)
        elif os.path.isdir(value):
            raise BadInput(
                f"{value}: this is a folder; give a prompt or a file with one prompt per line",
                source=value,
            )
        else:
            prompts.append(check_prompt(value, "the prompt"))
    return prompts


def _read(path: str) -> bytes:
    try:
        return as_path(path).read_bytes()
    except FileNotFoundError as error:
        raise BadInput(f"{path}: no such file of prompts", source=path) from error


def _lines(data: bytes, source: str) -> list[str]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise BadInput(
            f"{source}:{line}: not UTF-8 text; a file of prompts has one prompt per line",
            source=source,
        ) from error
    lines = enumerate(text.splitlines(), 1)
    prompts = [check_prompt(line, f"{source}:{number}") for number, line in lines if line.strip()]
    if not prompts:
        raise BadInput(f"{source}: no prompt in it; write one per line", source=source)
    return prompts


def check_prompt(text: str, source: str) -> str:
    """The prompt on one line, without control characters; emoji and markup stay.

    Args:
      source: where the prompt comes from, for the message.

    Raises:
      BadInput: it is empty, longer than MAX_CHARACTERS, or not UTF-8.
    """
    # undecodable bytes of a command line become lone surrogates
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise BadInput(f"{source}: not UTF-8 text; check the terminal's encoding", source=source)
    text = plain_text(text)
    if not text:
        raise BadInput(f"{source}: empty; write what the video should show", source=source)
    if len(text) > MAX_CHARACTERS:
        raise BadInput(
            f"{source}: {len(text):,} characters long; the limit is {MAX_CHARACTERS:,}, shorten it",
            source=source,
        )
    return text
