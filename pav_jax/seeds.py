"""Seeds: one for all prompts, or one each."""

from collections.abc import Sequence

import numpy as np

from pav_jax.errors import BadInput


def seeds_for_prompts(seed: int | Sequence[int], prompts: int) -> list[int]:
    """Return one seed per prompt from one for all or one each.

    Args:
      prompts: how many there are.

    Raises:
      BadInput: there are more or fewer seeds than prompts.
    """
    if isinstance(seed, int | np.integer):
        return [int(seed)] * prompts
    seeds = [int(s) for s in seed]
    if len(seeds) != prompts:
        raise BadInput(
            f"seed: {len(seeds)} seeds for {prompts} prompts; give one, or one per prompt",
            field="seed",
        )
    return seeds
