"""Controls: texts without a booster that put its gain into perspective.

`suffix` adds the same words to every prompt. `shuffled` assigns the rewrites to the wrong prompts.
A useful booster beats both. `oracle` is the caption that the prompt was made from: what a perfect
rewriter could reach.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from pav_jax.errors import BadInput

SUFFIXES = Path(__file__).with_name("suffixes.txt")

Texts = dict[tuple[str, int], str]  # (prompt, seed) -> text that the generator receives


def suffixes(path: Path = SUFFIXES) -> tuple[str, ...]:
    """Read the candidate suffixes: words that people add to prompts of image and video models."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    texts = tuple(line for line in lines if line)
    if not texts:
        raise BadInput(f"{path}: the file has no suffix; write one per line", source=path)
    return texts


def with_suffix(prompt: str, suffix: str) -> str:
    """Append a suffix to the prompt, after a comma."""
    return f"{prompt.rstrip(' .,')}, {suffix}"


def best_suffix(overall: Mapping[str, Iterable[float]]) -> str:
    """Return the suffix with the highest mean overall; the first one in a tie.

    Args:
      overall: suffix -> overall of each training prompt with this suffix; NaN if missing.
    """
    means = {}
    for suffix, values in overall.items():
        finite = [value for value in values if np.isfinite(value)]
        means[suffix] = float(np.mean(finite)) if finite else -np.inf
    return max(means, key=lambda suffix: means[suffix])


def shuffled(
    prompts: Sequence[str], seeds: Sequence[int], rewrites: Mapping[tuple[str, int], str]
) -> Texts:
    """Assign to each prompt the rewrite of another prompt.

    In a random order, each prompt gets the rewrite of the previous one. A shift in file order would
    not do: files often alternate between kinds of prompts, so shifted prompts can be similar.

    Args:
      rewrites: (prompt, seed) -> rewrite.

    Returns:
      (prompt, seed) -> text; empty for fewer than two prompts.
    """
    if len(prompts) < 2:
        return {}
    order = np.random.default_rng(0).permutation(len(prompts))
    targets = [prompts[int(i)] for i in order]
    sources = [prompts[int(i)] for i in np.roll(order, 1)]
    return {
        (target, seed): rewrites[source, seed]
        for target, source in zip(targets, sources, strict=True)
        for seed in seeds
    }


def oracle(prompts: Sequence[str], captions: Sequence[str | None], seeds: Sequence[int]) -> Texts:
    """Assign to each prompt its caption, if the caption is known."""
    return {
        (prompt, seed): caption
        for prompt, caption in zip(prompts, captions, strict=True)
        if caption
        for seed in seeds
    }
