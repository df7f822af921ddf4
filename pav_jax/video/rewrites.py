"""Rewrites of a booster as prompts of a generator: their flags become arguments of a call.

A rewrite brings its negative prompt, the seed that its user typed and the image given with the
prompt. Its other `settings`, such as
an aspect ratio, hold for one prompt, but a batch has one size: callers pass them on where they fit.
"""

from collections.abc import Sequence
from typing import Any

from pav_jax.records import Refinement
from pav_jax.video import sampling
from pav_jax.video.images import Images, PromptImage, as_images

Prompts = str | Refinement | Sequence[str | Refinement]
Seed = int | Sequence[int] | None


def read_rewrites(
    prompts: Prompts, negative_prompt: str | Sequence[str], seed: Seed
) -> tuple[list[Any], str | list[str], int | Sequence[int]]:
    """Return the texts, negative prompts and seeds of a call.

    Args:
      prompts: one, or several; strings are taken as they are.
      negative_prompt: where it is empty, that of the rewrite is taken.
      seed: None: the seed that the user typed (`-seed 7`), or 0.

    Raises:
      BadInput: there are more or fewer negative prompts than prompts.
    """
    items = [prompts] if isinstance(prompts, str | Refinement) else list(prompts)
    rewrites = [prompt if isinstance(prompt, Refinement) else None for prompt in items]
    texts = [r.text if r else prompt for prompt, r in zip(items, rewrites, strict=True)]
    negatives: str | list[str] = negative_prompt if isinstance(negative_prompt, str) else []
    if any(rewrites) or not isinstance(negative_prompt, str):
        each = sampling.per_prompt("negative_prompt", negative_prompt, len(texts))
        own = [r.negative_prompt if r else "" for r in rewrites]
        negatives = [text or typed for text, typed in zip(each, own, strict=True)]
    if seed is None:
        seed = [_typed_seed(r) if r else 0 for r in rewrites]
    return texts, negatives, seed


def read_images(prompts: Prompts, image: Images) -> list[PromptImage | None]:
    """Return the image of each prompt: `image`, or where it is None that of the rewrite.

    Raises:
      BadInput: there are more or fewer images than prompts, or one cannot be read.
    """
    items = [prompts] if isinstance(prompts, str | Refinement) else list(prompts)
    if image is None:
        image = [item.image if isinstance(item, Refinement) else None for item in items]
    return as_images(image, len(items))


def _typed_seed(rewrite: Refinement) -> int:
    typed = rewrite.settings.get("seed", "")
    return int(typed) if typed.isdecimal() else 0
