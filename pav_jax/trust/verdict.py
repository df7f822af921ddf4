"""From figures to a word: may this score be optimised?

    does not read the prompt   it claims to, but other people's prompts do it no harm: the interval
    of true minus
                               permuted holds zero, or the AUC stays below READS
    noisy                      damage it claims to notice does not lower it: on the kinds that
    verify, the median rank
                               correlation does not fall below minus the threshold, or the median
                               fall of the heaviest damage is less than SEEDS deviations over seeds
    usable                     neither
    no scores                  there is nothing to judge

Beside the word stand the sentences behind it, and warnings: a score that rises with some damage,
which optimising it would then bring about, or one that is mostly at an end of its range.

The threshold of the rank correlation is fixed on one half of the kinds of damage: what chance
reaches there in one of a hundred draws when severities are dealt out at random, and at least LEAST.
It is verified on the other half: there chance should again pass it in at most about one of a
hundred draws, and the kinds that are claimed should pass it.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from pav_jax.records import stable_seed
from pav_jax.rewards.suite import HELD_OUT
from pav_jax.trust import measures
from pav_jax.trust.corruptions import FAMILIES, VIDEO_CORRUPTIONS, split_types

USABLE, NOISY, DEAF, NOTHING = "usable", "noisy", "does not read the prompt", "no scores"
READS = 0.6  # least AUC of true against permuted prompts
# of the rank correlation's threshold: with many videos chance alone would ask for almost nothing
LEAST = 0.2
CHANCE = 0.01
RISES = 0.5  # rank correlation from which damage is said to raise a score
SEEDS = 1.0  # deviations over seeds that the heaviest damage must cost
DRAWS = 2000

# What a score says it is about: families of damage. "text" is there for those that claim to read
# the prompt.
CLAIMS = {
    "AES": ("picture",),
    "VQ": ("picture", "content"),
    "TC": ("consistency",),
    "DD": ("motion",),
    "FC": ("content", "consistency"),
    "TVA": ("content", "text"),
    "CLIP": ("content", "text"),
    "MPS": ("picture", "content", "text"),
    "FAITH": ("text",),
    "CFC": ("consistency",),
    "PC": ("consistency",),
    "QA": ("picture", "content", "consistency", "text"),
}
ANY = ("picture", "content")  # of a score that is not in the table


def claimed(name: str, claims: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """The kinds of damage that the score `name` ought to notice."""
    name = name.removeprefix(HELD_OUT)
    families = claims.get(name, CLAIMS.get(name, ANY))
    return tuple(kind for kind, family in FAMILIES.items() if family in families)


def reads_prompt(name: str, claims: Mapping[str, Sequence[str]]) -> bool:
    return any(kind not in VIDEO_CORRUPTIONS for kind in claimed(name, claims))


def responses(
    name: str,
    scores: Mapping[str, Float[np.ndarray, "D G"]],
    severities: Sequence[int],
    seed_noise: float,
    claims: Mapping[str, Sequence[str]],
) -> dict[str, dict[str, float | None]]:
    """How the score answers the damage it claims to notice, on the half that fixes the threshold
    and the other.

    Args:
      scores: kind -> scores of each damaged video at each severity.

    Returns:
      "fixed" and "verified", each with the median `correlation` and median `fall` (heaviest damage,
      in deviations over seeds) of its kinds, the share of kinds `noticed`, the `threshold`, and how
      often `chance` passes that. NaN where there is nothing to measure, infinity where seeds make
      no difference.
    """
    rng = np.random.default_rng(stable_seed("trust", name))
    found, threshold = {}, float("nan")
    for half, kinds in zip(("fixed", "verified"), split_types(), strict=True):
        mine = [kind for kind in kinds if kind in claimed(name, claims)]
        chance = np.concatenate(
            [measures.chance_correlations(scores[k], severities, DRAWS, rng) for k in mine] or [[]]
        )
        if half == "fixed":
            threshold = (
                max(LEAST, float(np.quantile(-chance, 1 - CHANCE))) if len(chance) else LEAST
            )
        followed = [
            _mean(measures.severity_correlations(scores[kind], severities)) for kind in mine
        ]
        falls = [fall(scores[kind], seed_noise) for kind in mine]
        found[half] = {
            "correlation": _median(followed),
            "fall": _median(falls),
            "noticed": (
                float(np.mean([-r >= threshold for r in followed])) if mine else float("nan")
            ),
            "threshold": threshold,
            "chance": float((-chance >= threshold).mean()) if len(chance) else float("nan"),
        }
    return found


def fall(scores_DxG: Float[np.ndarray, "D G"], seed_noise: float) -> float:
    """What the heaviest damage costs on average, in deviations over seeds."""
    cost = _mean(scores_DxG[:, 0] - scores_DxG[:, -1])
    if not np.isfinite(cost) or not np.isfinite(seed_noise):
        return float("nan")
    if seed_noise > 0:
        return cost / seed_noise
    return float(np.sign(cost) * np.inf) if cost else 0.0


def judge(
    reads: bool,
    difference: Sequence[float],
    area: float,
    verified: Mapping[str, float | None],
    saturated: Sequence[float],
    rising: Sequence[str] = (),
) -> tuple[str, list[str]]:
    """-> (verdict, the sentences behind it).

    Args:
      reads: whether the score claims to read the prompt.
      difference: true minus permuted, (mean, low, high); area: their AUC.
      verified: of `responses`.
      saturated: the shares of scores at the low and the high end of a range.
      rising: the kinds of damage that raise the score.
    """
    why = []
    if not np.isfinite(difference[0]) or not np.isfinite(verified["correlation"]):
        return NOTHING, ["too few of its scores are numbers"]
    if deaf := reads and not (difference[1] > 0 and area >= READS):
        why.append(f"a permuted prompt does as well as the true one (AUC {area:.2f})")
    if not reads:
        why.append("need not read the prompt")
    if weak := -verified["correlation"] < verified["threshold"]:
        why.append(f"it does not follow damage (correlation {verified['correlation']:.2f})")
    if small := verified["fall"] < SEEDS:
        why.append(f"heavy damage costs {verified['fall']:.1f} deviations over seeds")
    for end, share in zip(("lowest", "highest"), saturated, strict=True):
        if share > 0.5:
            why.append(f"{100 * share:.0f} % of its scores are the {end} there is")
    if rising:
        why.append(f"it rises with {', '.join(rising)}")
    return DEAF if deaf else NOISY if weak or small else USABLE, why


def _mean(values: Float[np.ndarray, "V"]) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def _median(values: Sequence[float]) -> float:
    known = [v for v in values if not np.isnan(v)]
    return float(np.median(known)) if known else float("nan")
