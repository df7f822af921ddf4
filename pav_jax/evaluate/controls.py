"""Controls: cheap tricks that a booster must beat before its gain means anything.

`suffix` adds the same words to every prompt, `shuffled` gives each prompt the rewrite of another
one, and `oracle` is the caption that the prompt was made from: what a perfect rewriter could reach.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from pav_jax.errors import BadInput

SUFFIXES = Path(__file__).with_name("suffixes.txt")
NAMES = ("suffix", "shuffled", "oracle")

Texts = dict[tuple[str, int], str]  # (prompt, seed) -> what the generator is given


def suffixes(path: Path = SUFFIXES) -> tuple[str, ...]:
    """Read the suffixes to try: what people add to prompts of any image or video model."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    texts = tuple(line for line in lines if line)
    if not texts:
        raise BadInput(f"{path}: the file holds no suffix", source=path)
    return texts


def with_suffix(prompt: str, suffix: str) -> str:
    """Return the prompt with a suffix after a comma."""
    return f"{prompt.rstrip(' .,')}, {suffix}"


def best_suffix(overall: Mapping[str, Iterable[float]]) -> str:
    """Return the suffix with the highest mean overall; of equal ones the first.

    Args:
      overall: suffix -> overall of each training prompt with it, NaN if it has none.
    """
    means = {}
    for suffix, values in overall.items():
        finite = [value for value in values if np.isfinite(value)]
        means[suffix] = float(np.mean(finite)) if finite else -np.inf
    return max(means, key=lambda suffix: means[suffix])


def shuffled(
    prompts: Sequence[str], seeds: Sequence[int], rewrites: Mapping[tuple[str, int], str]
) -> Texts:
    """Give each prompt the rewrite of the one before it in a random order.

    Shifting the given order would not do: files often take turns, and prompts half a set apart can
    be alike.

    Args:
      rewrites: (prompt, seed) -> rewrite.

    Returns:
      Nothing for fewer than two prompts.
    """
    if len(prompts) < 2:
        return {}
    order = np.random.default_rng(0).permutation(len(prompts))
    receivers = [prompts[int(i)] for i in order]
    givers = [prompts[int(i)] for i in np.roll(order, 1)]
    return {
        (receiver, seed): rewrites[giver, seed]
        for receiver, giver in zip(receivers, givers, strict=True)
        for seed in seeds
    }


def oracle(prompts: Sequence[str], captions: Sequence[str | None], seeds: Sequence[int]) -> Texts:
    """Give each prompt its caption, where it is known."""
    return {
        (prompt, seed): caption
        for prompt, caption in zip(prompts, captions, strict=True)
        if caption
        for seed in seeds
    }
