"""The tensors of the published Open-Sora 1.2 checkpoints, names and shapes, from the table beside
this file."""

import json
import re
from pathlib import Path


def published(part: str) -> dict[str, tuple[int, ...]]:
    """{name: shape} of "transformer" or "vae"; {a-b} in the table stands for every number from a to
    b."""
    rows = json.loads(Path(__file__).with_suffix(".json").read_text())[part]
    return {name: tuple(shape) for pattern, shape in rows for name in _names(pattern)}


def _names(pattern: str) -> list[str]:
    match = re.search(r"\{(.*?)\}", pattern)
    if match is None:
        return [pattern]
    ranges = (item.split("-") for item in match[1].split(","))
    numbers = [n for ends in ranges for n in range(int(ends[0]), int(ends[-1]) + 1)]
    return [
        name
        for n in numbers
        for name in _names(f"{pattern[: match.start()]}{n}{pattern[match.end() :]}")
    ]
