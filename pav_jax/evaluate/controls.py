"""Controls: cheap tricks that a booster has to beat before its gain means anything.

`suffix` adds the same words to every prompt, `shuffled` gives each prompt the rewrite of another
one, and `oracle` is the caption that the prompt was made from: what a perfect rewriter could reach.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pav_jax.errors import BadInput

SUFFIXES = Path(__file__).with_name("suffixes.txt")
NAMES = ("suffix", "shuffled", "oracle")


def suffixes(path: Path = SUFFIXES) -> tuple[str, ...]:
    """The fixed suffixes that are tried: what people add to prompts of any picture or video
    model."""
    lines = tuple(
        line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()
    )
    if not lines:
        raise BadInput(f"{path}: no suffix in it")
    return lines


def with_suffix(prompt: str, suffix: str) -> str:
    return f"{prompt.rstrip(' .,')}, {suffix}"


def best_suffix(overall: Mapping[str, Sequence[float]]) -> str:
    """The suffix with the highest mean overall on the training prompts; the earlier in the list
    where two are equal.

    Args:
      overall: suffix -> overall of each training prompt with it, NaN where there is none.
    """
    means = {}
    for suffix, values in overall.items():
        known = [v for v in values if np.isfinite(v)]
        means[suffix] = float(np.mean(known)) if known else -np.inf
    return max(means, key=lambda suffix: means[suffix])


def shuffled(
    prompts: Sequence[str], seeds: Sequence[int], rewrites: Mapping[tuple[str, int], str]
) -> dict[tuple[str, int], str]:
    """Each prompt with the rewrite of the one before it in a random order; empty for fewer than two
    prompts.

    A shift of the given order would not do: files are often made in turns, and prompts half a set
      apart may be alike.
    """
    if len(prompts) < 2:
        return {}
    order = np.random.default_rng(0).permutation(len(prompts))
    return {
        (prompts[i], s): rewrites[prompts[j], s]
        for i, j in zip(order, np.roll(order, 1), strict=True)
        for s in seeds
    }


def oracle(
    prompts: Sequence[str], captions: Sequence[str | None], seeds: Sequence[int]
) -> dict[tuple[str, int], str]:
    """Each prompt whose caption is known with that caption."""
    return {
        (p, s): caption
        for p, caption in zip(prompts, captions, strict=True)
        if caption
        for s in seeds
    }
