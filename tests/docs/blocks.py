"""Code blocks and commands of Markdown pages."""

import dataclasses
import pathlib
import re
import shlex
import textwrap
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).parents[2]
FENCE = re.compile(r"^ *(`{3,}) *(\w*)")
NEEDS = re.compile(r"^ *<!-- needs: (.*) -->$")
PUNCTUATION = re.compile(r"[();<>|&]+")


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
      place: file and line.
      needs: what the line above says that it needs beyond the package and a CPU.
    """

    place: str
    language: str
    text: str
    needs: tuple[str, ...]


def pages() -> list[pathlib.Path]:
    """All Markdown pages for readers."""
    names = ("README.md", "CONTRIBUTING.md", "launch/README.md", "integrations/comfyui/README.md")
    return [*(ROOT / name for name in names), *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: pathlib.Path) -> Iterator[Block]:
    """The fenced blocks of a page."""
    lines = page.read_text().splitlines()
    number = 0
    while number < len(lines):
        match = FENCE.match(lines[number])
        if match is None:
            number += 1
            continue
        start = number + 1
        end = next(n for n in range(start, len(lines)) if lines[n].strip() == match[1])
        above = next((line for line in reversed(lines[:number]) if line.strip()), "")
        needs = NEEDS.match(above)
        words = tuple(needs[1].split(", ")) if needs else ()
        place = f"{page.relative_to(ROOT)}:{start}"
        text = textwrap.dedent("\n".join(lines[start:end]))
        yield Block(place, match[2], text, words)
        number = end + 1


def commands(text: str) -> Iterator[list[str]]:
    """The words of each simple command of a shell text."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if not PUNCTUATION.fullmatch(word):
                words.append(word)
            elif words:
                yield words
                words = []


def anchors(page: pathlib.Path) -> set[str]:
    """The anchors of a page's headings, as hosting services make them."""
    text = re.sub(r"^ *(`{3,}).*?^ *\1", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", title.lower()) for title in titles)
    return {title.strip().replace(" ", "-") for title in plain}


def links(page: pathlib.Path) -> Iterator[tuple[str, str]]:
    """(path, anchor) of each relative link of a page."""
    text = re.sub(r"^ *(`{3,}).*?^ *\1", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^()\s]+)\)", text):
        if not re.match(r"[a-z]+:", target):
            path, _, anchor = target.partition("#")
            yield path, anchor
