"""What the rewrites of a system keep of the prompts, counted unit by unit."""

import math
from collections import Counter
from collections.abc import Iterable

from pav_jax.rewards.faith.checks import CONTRADICTED, KEPT, MISSING
from pav_jax.rewards.faithfulness import judge

ADDED = "added"
UNREAD = "unread"  # rewrites that FAITH cannot compare with their prompt
NAMES = (KEPT, MISSING, CONTRADICTED, ADDED)


def count_units(pairs: Iterable[tuple[str, str]]) -> dict[str, int]:
    """Return how many units of prompts were kept, missing, contradicted and added.

    FAITH leaves out roles and relations that a rewrite does not state, so the counts of two systems
    over the same prompts may have different sums.

    Args:
      pairs: (prompt, rewrite); equal ones count each.

    Returns:
      The counts, and under `UNREAD` how many rewrites could not be compared.
    """
    totals: dict[str, int] = dict.fromkeys((*NAMES, UNREAD), 0)
    for (prompt, refined), times in Counter(pairs).items():
        judgement = judge(prompt, refined)
        if math.isnan(judgement.score):
            totals[UNREAD] += times
            continue
        for name in NAMES:
            totals[name] += times * len(getattr(judgement, name))
    return totals
