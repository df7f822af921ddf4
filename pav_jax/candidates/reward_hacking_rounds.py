"""Signs of reward hacking of every round that a work directory holds, from its records alone."""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from pav_jax.candidates import reward_hacking
from pav_jax.candidates.reward_hacking import Signs, Valued
from pav_jax.records import Candidate, Preference
from pav_jax.storage.records import read_jsonl, read_segments


def read_signs(workdir: str | os.PathLike, config: Mapping[str, Any]) -> list[Signs]:
    """Evolution, then each round of preferences and what DPO learned from it, then GRPO in windows
    of steps.

    Args:
      config: the whole configuration; its weights make overall.

    Raises:
      BadInput: a record is broken.
    """
    folder = epath.Path(workdir)
    pool = read_segments(folder / "pool", Candidate)
    evolved = _valued(pool, config, "evolve")
    found = [reward_hacking.evolution(n, evolved) for n in sorted({c.round for c in pool} - {0})]
    own = _valued([c for c in pool if c.round == 0], config, "prefer")
    first: list[Valued] = []
    for n in _numbers(folder, r"round_(\d+)"):
        candidates = _valued(
            read_segments(folder / f"round_{n}" / "candidates", Candidate), config, "prefer"
        )
        if candidates:
            found.append(reward_hacking.preference(n, candidates, first, own))
        first = first or candidates
        if (learned := pair_signs(folder, config, n)) is not None:
            found.append(learned)
    steps = _numbers(folder / "grpo" / "candidates", r"(\d+)")
    watch = reward_hacking.Steps(
        lambda n: _valued(
            read_segments(folder / "grpo" / "candidates" / f"{n:06d}", Candidate), config, "grpo"
        )
    )
    ends = (
        {*range(reward_hacking.WINDOW, steps[-1] + 1, reward_hacking.WINDOW), steps[-1]}
        if steps
        else ()
    )
    return found + [watch(n) for n in sorted(ends)]


def pair_signs(workdir: str | os.PathLike, config: Mapping[str, Any], round: int) -> Signs | None:
    """What the pairs of a round teach; None without pairs, or where they are not of this round's
    candidates."""
    folder = epath.Path(workdir) / f"round_{round}"
    file = folder / "preferences.jsonl"
    if not file.exists():
        return None
    candidates = _valued(read_segments(folder / "candidates", Candidate), config, "prefer")
    signs = reward_hacking.pairs(round, read_jsonl(file, Preference), candidates)
    return signs if signs.rewrites else None


def overall(candidate: Candidate, weights: Mapping[str, float]) -> float:
    """The weighted sum of a candidate's scores; NaN for one that has an error or lacks a score."""
    if candidate.error or not weights:
        return float("nan")
    return float(
        sum(w * candidate.scores.get(name, float("nan")) for name, w in weights.items() if w)
    )


def _valued(
    candidates: Sequence[Candidate], config: Mapping[str, Any], section: str
) -> list[Valued]:
    """With the weights of a stage; those of the suite where it has none."""
    weights = (
        (config.get(section) or {}).get("weights")
        or (config.get("rewards") or {}).get("weights")
        or {}
    )
    return [(c, overall(c, dict(weights))) for c in candidates]


def _numbers(folder: epath.Path, pattern: str) -> list[int]:
    names = [p.name for p in folder.iterdir()] if folder.exists() else []
    return sorted(int(m[1]) for name in names if (m := re.fullmatch(pattern, name)))
