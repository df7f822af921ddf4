"""The chat that asks a language model for rewrites, and the rewrites in its reply."""

import math
import re
import string
from collections.abc import Mapping, Sequence
from pathlib import Path

from pav_jax.candidates.prompt_text import plain_text
from pav_jax.errors import BadInput

TEMPLATE = Path(__file__).parent / "templates" / "evolve.txt"

_THOUGHTS = re.compile(r"<think>.*?(</think>|$)", re.DOTALL | re.IGNORECASE)
_TAG = re.compile(r"<\s*(/?)\s*prompt\s*>", re.IGNORECASE)
_NUMBER = re.compile(r"^\s*(?:\(?\d{1,2}[.):]|[-*])\s+")


def read_template(path: str | Path | None = None) -> str:
    """Read the system message, in which `$count` and `$rewards` are still open.

    Args:
      path: a file that replaces `templates/evolve.txt`.

    Raises:
      BadInput: the file cannot be read, or uses other `$` names.
    """
    path = Path(path or TEMPLATE)
    try:
        text = path.read_text(encoding="utf-8")
        string.Template(text).substitute(count=3, rewards="")
    except OSError as error:
        raise BadInput(
            f"{path}: the template cannot be read ({error.strerror})", source=path
        ) from error
    except (KeyError, ValueError) as error:
        raise BadInput(
            f"{path}: a template may only use $count and $rewards, and $$ for a dollar ({error})",
            source=path,
        ) from error
    return text


def make_chat(
    history: Sequence[tuple[str, Mapping[str, float]]], count: int, template: str
) -> list[dict[str, str]]:
    """Return the chat messages for one prompt.

    Args:
      history: (text, scores) of the user's prompt, then of its best rewrites.
      count: how many rewrites to ask for.
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

    Tags inside a text are removed, so that they cannot be taken for those of a reply.
    """
    lines = []
    for i, (text, scores) in enumerate(history):
        finite = {name: value for name, value in scores.items() if math.isfinite(value)}
        shown = ", ".join(f"{name} {value:.2f}" for name, value in finite.items())
        line = f"{i}. {plain_text(_TAG.sub(' ', text))}"
        lines.append(f"{line} ({shown})" if shown else line)
    return "\n".join(lines)


def parse_rewrites(reply: str) -> list[str]:
    """Return the texts between <PROMPT> tags, in order.

    Accepts any case, line breaks, numbering and quotes inside, and a missing closing tag before the
    next opening one. A last text without its closing tag was cut off and is left out. A reply
    without tags gives nothing.
    """
    reply = _THOUGHTS.sub(" ", reply)
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
