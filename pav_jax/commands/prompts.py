"""Read a command's prompts from the command line, a file, or standard input."""

import os
import sys
from collections.abc import Sequence

from pav_jax.candidates.prompt_file import MAX_BYTES, decode_prompts, read_prompt_file
from pav_jax.candidates.prompt_text import MAX_CHARACTERS, plain_text
from pav_jax.errors import BadInput
from pav_jax.storage.addresses import PREFIXES

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
            if sys.stdin is None:
                raise BadInput("-: standard input is closed; give a prompt", source="PROMPT")
            data = sys.stdin.buffer.read(MAX_BYTES + 1)
            prompts += _lines(decode_prompts(data, "standard input", "-"), "standard input")
        elif value.startswith(EMBEDDED_PROMPTS) or _is_file(value):
            prompts += _lines(read_prompt_file(value), value)
        elif os.path.isdir(value):
            raise BadInput(
                f"{value}: this is a folder; give a prompt or a file with one prompt per line",
                source=value,
            )
        else:
            prompts.append(check_prompt(value, "the prompt"))
    return prompts


def _is_file(value: str) -> bool:
    """Whether this is a file or a pipe, such as the `/dev/fd/63` of a shell's `<(command)`."""
    return value.startswith(PREFIXES) or (os.path.exists(value) and not os.path.isdir(value))


def _lines(text: str, source: str) -> list[str]:
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
