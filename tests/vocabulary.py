"""Finds retired words (tests/retired_words.txt): `python tests/vocabulary.py [PATHS]`."""

import pathlib
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterable, Iterator

ROOT = pathlib.Path(__file__).parents[1]
RULES = ROOT / "tests" / "retired_words.txt"
SUFFIXES = {".py", ".md", ".sh", ".toml", ".j2", ".jinja", ".yml", ".yaml", ".cff", ".ipynb"}
OWN_FILES = {RULES, pathlib.Path(__file__)}
# text that models wrote, and names of earlier versions
QUOTATIONS = {ROOT / "docs" / "vbench_rewrites.md", ROOT / "CHANGELOG.md"}
IGNORE = "vocabulary: ignore"


def read_rules() -> tuple[list[tuple[re.Pattern, str]], list[tuple[re.Pattern, str]]]:
    """(rules for identifiers, rules for text), each a pattern and what to write instead."""
    rules: dict[str, list[tuple[re.Pattern, str]]] = {"name": [], "text": []}
    for line in RULES.read_text().splitlines():
        if line and not line.startswith("#"):
            kind, pattern, instead = line.split("\t")
            rules[kind].append((re.compile(pattern), instead))
    return rules["name"], rules["text"]


def retired_words(paths: Iterable[pathlib.Path]) -> Iterator[str]:
    """One line for each retired word in the files `paths`: place, word, what to write instead."""
    name_rules, text_rules = read_rules()
    for path in paths:
        if path.suffix not in SUFFIXES or path in OWN_FILES | QUOTATIONS:
            continue
        lines = path.read_text().splitlines()
        words = [
            (number, match[0], instead)
            for number, line in enumerate(lines, 1)
            for pattern, instead in text_rules
            if (match := pattern.search(line))
        ]
        if path.suffix == ".py":
            words += retired_names(path, name_rules)
        for number, word, instead in sorted(words):
            if IGNORE not in lines[number - 1]:
                yield f"{path}:{number}: {word!r}; write {instead}"


def retired_names(
    path: pathlib.Path, rules: list[tuple[re.Pattern, str]]
) -> Iterator[tuple[int, str, str]]:
    """(line, identifier, what to write instead) for each retired identifier in a Python file."""
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type == tokenize.NAME:
                for pattern, instead in rules:
                    if pattern.fullmatch(token.string):
                        yield token.start[0], token.string, instead


def tracked_files(arguments: list[str]) -> list[pathlib.Path]:
    """The files of the repository, or those of them below the paths given."""
    command = ["git", "ls-files", "-z", "--", *arguments]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    return [ROOT / name for name in output.split("\0") if name and (ROOT / name).is_file()]


if __name__ == "__main__":
    problems = list(retired_words(tracked_files(sys.argv[1:])))
    print(*problems, f"{len(problems)} retired words", sep="\n")
    sys.exit(bool(problems))
