"""What a chat model is shown in a round of evolution, and how its answer is read."""

import math
import re
import string
from collections.abc import Mapping, Sequence
from pathlib import Path

from pav_jax.candidates.prompt_text import plain_text
from pav_jax.checkpoints.hub import local_file
from pav_jax.errors import BadInput

TEMPLATE = Path(__file__).parent / "templates" / "evolve.txt"

_THOUGHTS = re.compile(r"<think>.*?(</think>|$)", re.DOTALL | re.IGNORECASE)
_TAG = re.compile(r"<\s*(/?)\s*prompt\s*>", re.IGNORECASE)
_NUMBER = re.compile(r"^\s*(?:\(?\d{1,2}[.):]|[-*])\s+")


def read_template(path: str | Path | None = None) -> str:
    """The system message with `$count` and `$rewards` left open; `path` replaces our own.

    Raises:
      BadInput: there is no such file, or it has other `$` names.
    """
    path = Path(local_file(path or TEMPLATE))
    try:
        text = path.read_text(encoding="utf-8")
        string.Template(text).substitute(count=3, rewards="")
    except OSError as error:
        raise BadInput(f"{path}: the template cannot be read ({error.strerror})") from error
    except (KeyError, ValueError) as error:
        raise BadInput(
            f"{path}: a template may use $count and $rewards only, $$ is a dollar ({error})"
        ) from error
    return text


def messages(
    history: Sequence[tuple[str, Mapping[str, float]]], count: int, template: str
) -> list[dict[str, str]]:
    """The chat for one prompt: number 0 is the user's own, the others are its best rewrites, each
    with its scores."""
    names = [name for name in dict.fromkeys(n for _, scores in history for n in scores)]
    system = string.Template(template).substitute(count=count, rewards=", ".join(names))
    return [
        {"role": "system", "content": system.strip()},
        {"role": "user", "content": shown_history(history)},
    ]


def shown_history(history: Sequence[tuple[str, Mapping[str, float]]]) -> str:
    """One numbered line for each text; tags inside a text are taken out, so that they cannot pass
    for an answer."""
    lines = []
    for i, (text, scores) in enumerate(history):
        shown = ", ".join(
            f"{name} {value:.2f}" for name, value in scores.items() if math.isfinite(value)
        )
        lines.append(f"{i}. {plain_text(_TAG.sub(' ', text))}" + (f" ({shown})" if shown else ""))
    return "\n".join(lines)


def parse(answer: str) -> list[str]:
    """The texts between <PROMPT> tags, in order.

    Forgiving: any case, line breaks, numbering and quotes inside, a missing closing tag before the
      next opening one.
    A last text without its closing tag was cut off and is left out; an answer without tags gives
    nothing.
    """
    answer = _THOUGHTS.sub(" ", answer)
    tags = list(_TAG.finditer(answer))
    texts = []
    for tag, following in zip(tags, tags[1:], strict=False):
        if tag[1]:  # a closing tag opens nothing
            continue
        text = _NUMBER.sub("", plain_text(answer[tag.end() : following.start()]))
        if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
            text = text[1:-1].strip()
        if text:
            texts.append(text)
    return texts
