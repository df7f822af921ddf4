"""Read a command's prompts from the command line, a file, or standard input."""

import os
import sys
from collections.abc import Sequence

from pav_jax.candidates.prompt_file import MAX_BYTES, decode_prompts, read_prompt_file
from pav_jax.candidates.prompt_sets import read_json_row
from pav_jax.candidates.prompt_text import MAX_CHARACTERS, plain_text
from pav_jax.errors import BadInput
from pav_jax.storage.addresses import PREFIXES
from pav_jax.video.images import PromptImage, read_image

EMBEDDED_PROMPTS = "mini:prompts/"

Row = tuple[str, PromptImage | None]


def read_prompts(values: Sequence[str]) -> list[str]:
    """Read prompts in order, without the images of .jsonl files.

    Args:
      values: each is a prompt, a file with one prompt per line (blank lines are skipped), a .jsonl
        file of objects with `prompt`, or `-` for standard input. No value means standard input
        where something is piped in.

    Raises:
      BadInput: no prompt, or one that is empty, too long or not UTF-8.
    """
    return [prompt for prompt, _ in _read_rows(values)]


def read_prompts_and_images(
    values: Sequence[str], image: str | None = None
) -> tuple[list[str], list[PromptImage | None]]:
    """Read prompts in order, and the image of each, None without one.

    Args:
      values: as for `read_prompts`.
      image: `--image`, the file of an image for all prompts.

    Raises:
      BadInput: also an image that cannot be read, or one in a file besides `--image`.
    """
    rows = _read_rows(values)
    images: list[PromptImage | None] = [row_image for _, row_image in rows]
    if image is not None:
        if any(images):
            raise BadInput(
                f"--image={image}: the file of prompts names images too; leave out one of the two",
                source="--image",
            )
        shared = read_image(image, f"--image={image}", "--image")
        images = [shared for _ in rows]
    return [prompt for prompt, _ in rows], images


def _read_rows(values: Sequence[str]) -> list[Row]:
    if not values:
        if sys.stdin is None or sys.stdin.isatty():
            raise BadInput(
                "no prompt; give one in quotes, a file with one per line, or - to read standard"
                " input",
                source="PROMPT",
            )
        values = ["-"]
    rows: list[Row] = []
    for value in values:
        if value == "-":
            if sys.stdin is None:
                raise BadInput("-: standard input is closed; give a prompt", source="PROMPT")
            data = sys.stdin.buffer.read(MAX_BYTES + 1)
            rows += _lines(decode_prompts(data, "standard input", "-"), "standard input")
        elif value.startswith(EMBEDDED_PROMPTS) or _is_file(value):
            rows += _lines(read_prompt_file(value), value)
        elif os.path.isdir(value):
            raise BadInput(
                f"{value}: this is a folder; give a prompt or a file with one prompt per line",
                source=value,
            )
        elif value.endswith((".txt", ".jsonl")) and not any(map(str.isspace, value)):
            raise BadInput(f"{value}: no such file; correct the path", source=value)
        else:
            rows.append((check_prompt(value, "the prompt"), None))
    return rows


def _is_file(value: str) -> bool:
    """Whether this is a file or a pipe, such as the `/dev/fd/63` of a shell's `<(command)`."""
    return value.startswith(PREFIXES) or (os.path.exists(value) and not os.path.isdir(value))


def _lines(text: str, source: str) -> list[Row]:
    rows: list[Row] = []
    # JSON may hold line separators of Unicode, which `splitlines` would split
    is_json = source.endswith(".jsonl")
    for number, line in enumerate(text.split("\n") if is_json else text.splitlines(), 1):
        if not line.strip():
            continue
        place = f"{source}:{number}"
        if is_json:
            row = read_json_row(line, source, place)
            rows.append((check_prompt(row.prompt, place), row.image))
        else:
            rows.append((check_prompt(line, place), None))
    if not rows:
        raise BadInput(f"{source}: no prompt in it; write one per line", source=source)
    return rows


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
