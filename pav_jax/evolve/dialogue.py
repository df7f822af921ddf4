"""Builds the chat that requests rewrites from a language model, and parses the reply."""

import math
import re
import string
from collections.abc import Mapping, Sequence
from pathlib import Path

from pav_jax.candidates.prompt_text import plain_text
from pav_jax.errors import BadInput
from pav_jax.language.thoughts import without_thoughts
from pav_jax.storage.folders import local_copy

TEMPLATE = Path(__file__).parent / "templates" / "evolve.txt"

_TAG = re.compile(r"<\s*(/?)\s*prompt\s*>", re.IGNORECASE)
_NUMBER = re.compile(r"^\s*(?:\(?\d{1,2}[.):]|[-*])\s+")


def read_template(path: str | Path | None = None) -> str:
    """Read the system message, with `$count` and `$rewards` unsubstituted.

    Args:
      path: file that replaces `templates/evolve.txt`.

    Raises:
      BadInput: the file cannot be read, or uses other placeholders.
    """
    path = local_copy(path or TEMPLATE)
    try:
        text = path.read_text(encoding="utf-8")
        string.Template(text).substitute(count=3, rewards="")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(
            f"{path}: the template cannot be read ({type(error).__name__}); give a UTF-8 text file",
            source=path,
        ) from error
    except (KeyError, ValueError) as error:
        raise BadInput(
            f"{path}: use no placeholder but $count and $rewards, and write $$ for a dollar"
            f" ({error})",
            source=path,
        ) from error
    return text


def make_chat(
    history: Sequence[tuple[str, Mapping[str, float]]], count: int, template: str
) -> list[dict[str, str]]:
    """Return the chat messages for one prompt.

    Args:
      history: (text, scores) of the user's prompt, then of its best rewrites.
      count: number of rewrites to request.
      template: see `read_template`.
    """
    rewards = list(dict.fromkeys(name for _, scores in history for name in scores))
    system = string.Template(template).substitute(count=count, rewards=", ".join(rewards))
    return [
        {"role": "system", "content": system.strip()},
        {"role": "user", "content": format_history(history)},
    ]


def format_history(history: Sequence[tuple[str, Mapping[str, float]]]) -> str:
    """Return one numbered line per text, with its scores; the user's prompt is number 0.

    Tags inside a text are removed, so that the model does not copy them into its reply.
    """
    lines = []
    for i, (text, scores) in enumerate(history):
        finite = {name: value for name, value in scores.items() if math.isfinite(value)}
        shown = ", ".join(f"{name} {value:.2f}" for name, value in finite.items())
        line = f"{i}. {plain_text(_TAG.sub(' ', text))}"
        lines.append(f"{line} ({shown})" if shown else line)
    return "\n".join(lines)


def parse_rewrites(reply: str) -> list[str]:
    """Parse a reply: return the texts between <PROMPT> tags, in order.

    The tags may have any case. Line breaks, numbering and quotes around a text are removed. The
    next opening tag also closes a text. A last text without a closing tag was cut off and is left
    out. A reply without tags returns [].
    """
    reply = without_thoughts(reply)
    tags = list(_TAG.finditer(reply))
    texts = []
    for tag, following in zip(tags, tags[1:], strict=False):
        if tag[1]:  # a closing tag
            continue
        text = _NUMBER.sub("", plain_text(reply[tag.end() : following.start()]))
        if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
            text = text[1:-1].strip()
        if text:
            texts.append(text)
    return texts
