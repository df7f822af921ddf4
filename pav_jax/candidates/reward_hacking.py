"""Signs that a reward is gamed rather than met, read from the records of each round. Watching
chooses nothing.

Four signs, each in the figures of one round:

- length: rewrites grow (verbosity is what preference optimisation drifts to first; Singhal et al.
  2023, arXiv 2310.03716);
- motion: DD falls, for a still picture pleases most judges of pictures;
- judges: a held-out judge (`rewards.held_out`) does not follow overall, or falls while it rises
  (Gao et al. 2023, arXiv 2210.10760: what is optimised goes on rising after what is meant has begun
  to fall);
- saturation: many rewrites share a reward's highest score, so that it can tell them apart no
  longer.

A fall is called clear when it exceeds both two standard errors and a fifth of a standard deviation
of what it is compared with, over at least FEW prompts on either side. Means are taken over prompts,
each the mean of its rewrites, so that no prompt counts twice; where both sides have the same
prompts their differences are taken, which is sharper.
"""

import dataclasses
import logging
import math
from collections.abc import Callable, Hashable, Mapping, Sequence

import jax
import numpy as np
from jaxtyping import Float

from pav_jax.records import Candidate, Preference
from pav_jax.rewards.suite import FLOOR_ONLY, HELD_OUT

# mean words over the first round's (of pairs: chosen over rejected) from which rewrites are too
# long
LONGER = 1.5
ERRORS = 2.0  # standard errors: about 95 % of what chance does
SMALL = 0.2  # standard deviations: a small effect (Cohen 1988)
# a correlation within prompts, by ERRORS / sqrt(rewrites) below which a judge does not follow
# overall
AGREEMENT = 0.2
SATURATED = 0.25  # the largest share of rewrites that may have a reward's highest score
HAIR = 1e-3  # of a reward's range: how near its highest score counts as it
# prompts or rewrites from which a figure can raise an alarm; a correlation takes four times as many
FEW = 8
WINDOW = 10  # steps of GRPO that make a round: one step has too few prompts

MOTION = "DD"
OWN, FIRST, REJECTED = "the user's own prompts", "the first round", "the rejected rewrites"

Valued = tuple[Candidate, float]  # with its overall, not finite where it may not be selected
Groups = Mapping[Hashable, Sequence[Valued]]  # prompt -> its rewrites


@dataclasses.dataclass(frozen=True)
class Change:
    """A mean minus the one it is compared with, and the standard error of that."""

    mean: float
    error: float  # infinite where there are too few to say
    scale: float  # the standard deviation over the prompts of what it is compared with

    @property
    def falls(self) -> bool:
        return self.mean < -max(ERRORS * self.error, SMALL * self.scale)


@dataclasses.dataclass(frozen=True)
class Judge:
    """What a held-out judge says of a round. NaN and None where there is nothing to compare."""

    name: str
    correlation: float  # with overall, within prompts
    rewrites: int  # that it is taken over
    change: Change | None


@dataclasses.dataclass(frozen=True)
class Signs:
    """One round, as the log and the report show it. NaN, None and empty where there is nothing to
    say."""

    round: str
    rewrites: int
    words: float  # of a rewrite
    own_words: float  # of the user's prompts
    first_words: float  # of the first round's rewrites; of pairs: of the rejected ones
    against: str  # what changes are measured against
    overall: Change | None
    motion: Mapping[str, Change]  # "best" of each prompt and "all"
    judges: tuple[Judge, ...]
    saturated: Mapping[str, float]  # reward -> share of rewrites with its highest score
    alarms: tuple[str, ...]  # sentences

    def warn(self, log: logging.Logger) -> None:
        """One line where something is alarming; of many processes the first says it."""
        if self.alarms and jax.process_index() == 0:
            log.warning("%s: signs of reward hacking: %s", self.round, "; ".join(self.alarms))


# ----------------------------------------------------------------------------- the rounds there are


def evolution(round: int, pool: Sequence[Valued]) -> Signs:
    """A round of evolution against the user's own prompts, which are its round 0."""
    own, first, this = ([row for row in pool if row[0].round == n] for n in (0, 1, round))
    return signs(f"evolve, round {round}", this, own, first if round > 1 else ())


def preference(
    round: int,
    candidates: Sequence[Valued],
    first: Sequence[Valued] = (),
    own: Sequence[Valued] = (),
) -> Signs:
    """A round of candidates, written by the booster that the training before it made.

    Args:
      first: round 1's, where this is a later one.
      own: the user's own prompts of evolution: other prompts than these, but the only ones with
        videos of their own.
    """
    return signs(f"prefer, round {round}", candidates, own, first)


def pairs(round: int, preferences: Sequence[Preference], candidates: Sequence[Valued]) -> Signs:
    """What a round of DPO learns: its chosen rewrites against its rejected ones."""
    found = {(c.prompt, c.refined): (c, value) for c, value in candidates}
    known = [
        (found[p.prompt, p.chosen], found[p.prompt, p.rejected])
        for p in preferences
        if (p.prompt, p.chosen) in found and (p.prompt, p.rejected) in found
    ]
    chosen = {i: [pair[0]] for i, pair in enumerate(known)}
    rejected = {i: [pair[1]] for i, pair in enumerate(known)}
    return _signs(f"dpo, round {round}", chosen, rejected, REJECTED, rejected)


class Steps:
    """GRPO's steps: the last WINDOW of them against the first WINDOW.

    Args:
      read: step -> its candidates, each once, from the disk; asked once for each step.
    """

    def __init__(self, read: Callable[[int], Sequence[Valued]]):
        self._read, self._known = read, {}

    def __call__(self, last: int) -> Signs:
        """The window that ends with step `last`."""
        begin, early = max(last - WINDOW, 0), range(1, WINDOW + 1)
        asked = {*early, *range(begin + 1, last + 1)} if begin else set(range(1, last + 1))
        self._known = {
            n: self._known[n] if n in self._known else list(self._read(n)) for n in sorted(asked)
        }
        this = [row for n in range(begin + 1, last + 1) for row in self._known[n]]
        # a window that overlaps the first would be compared with itself
        first = [row for n in early for row in self._known[n]] if begin >= WINDOW else []
        return signs(f"grpo, steps {begin + 1} to {last}", this, first=first)


# ----------------------------------------------------------------------------------- what they show


def signs(
    name: str, rewrites: Sequence[Valued], own: Sequence[Valued] = (), first: Sequence[Valued] = ()
) -> Signs:
    """The signs of a round called `name`.

    Args:
      rewrites: the round's candidates; those without an overall are left out.
      own: videos of users' own words, which changes are measured against where there are any.
      first: the first round's candidates, where this is another.
    """
    own = _grouped(own)
    against, reference = (OWN, own) if own else (FIRST, _grouped(first))
    return _signs(name, _grouped(rewrites), reference, against, _grouped(first))


def _signs(name: str, this: Groups, reference: Groups, against: str, first: Groups) -> Signs:
    rows = [row for group in this.values() for row in group]
    seen = [*rows, *(row for group in reference.values() for row in group)]
    best = {prompt: [max(group, key=lambda row: row[1])] for prompt, group in this.items()}
    motion = {
        which: found
        for which, groups in (("best", best), ("all", this))
        if (found := _change(groups, reference, _score(MOTION)))
    }
    judges = tuple(
        Judge(judge, *_correlation(this, _score(judge)), _change(this, reference, _score(judge)))
        for judge in sorted({n for c, _ in rows for n in c.scores if n.startswith(HELD_OUT)})
    )
    found = Signs(
        name,
        len(rows),
        _mean(len(c.refined.split()) for c, _ in rows),
        _mean(len(group[0][0].prompt.split()) for group in this.values()),
        _mean(len(c.refined.split()) for group in first.values() for c, _ in group),
        against,
        _change(this, reference, lambda row: row[1]),
        motion,
        judges,
        _saturated(rows, seen),
        (),
    )
    return dataclasses.replace(found, alarms=_alarms(found))


def _alarms(found: Signs) -> tuple[str, ...]:
    """A sentence, with its figures, for each sign that is over its limit."""
    said, learned = [], found.against == REJECTED
    what = "the chosen rewrites" if learned else "the rewrites"
    if found.rewrites >= FEW and found.words > LONGER * found.first_words:
        said.append(
            f"{what} have {found.words:.1f} words, {found.words / found.first_words:.2f} times the"
            f" {found.first_words:.1f} of {REJECTED if learned else FIRST}"
        )
    for which, change in found.motion.items():
        if change.falls:
            of = "each prompt's best rewrite" if which == "best" and not learned else what
            said.append(f"{MOTION} of {of} is {abs(change.mean):.3g} lower than of {found.against}")
            break
    for judge in found.judges:
        if (
            judge.rewrites >= 4 * FEW
            and judge.correlation + ERRORS / math.sqrt(judge.rewrites) < AGREEMENT
        ):
            said.append(
                f"{judge.name} does not follow overall: their correlation within prompts is"
                f" {judge.correlation:.2f}, over {judge.rewrites} rewrites"
            )
        if judge.change and judge.change.falls and found.overall and found.overall.mean > 0:
            said.append(
                f"{judge.name} is {abs(judge.change.mean):.3g} lower than of {found.against}, while"
                f" overall is {found.overall.mean:.3g} higher"
            )
    if found.rewrites >= FEW:
        said += [
            f"{100 * share:.0f} % of the rewrites share the highest score of {reward}"
            for reward, share in found.saturated.items()
            if share > SATURATED
        ]
    return tuple(said)


def _grouped(rows: Sequence[Valued]) -> Groups:
    groups: dict[Hashable, list[Valued]] = {}
    for candidate, value in rows:
        if np.isfinite(value) and candidate.error is None:
            groups.setdefault(candidate.prompt, []).append((candidate, value))
    return groups


def _score(name: str) -> Callable[[Valued], float]:
    return lambda row: row[0].scores.get(name, math.nan)


def _means(groups: Groups, of: Callable[[Valued], float]) -> dict[Hashable, float]:
    """Each prompt's mean, of those that have one."""
    means = {prompt: _mean(map(of, group)) for prompt, group in groups.items()}
    return {prompt: mean for prompt, mean in means.items() if np.isfinite(mean)}


def _change(this: Groups, reference: Groups, of: Callable[[Valued], float]) -> Change | None:
    """The mean over this round's prompts minus the mean over the reference's; paired where they
    share their prompts."""
    mine, theirs = _means(this, of), _means(reference, of)
    if not mine or not theirs:
        return None
    if mine.keys() <= theirs.keys():
        others = np.asarray([theirs[prompt] for prompt in mine])
        differences = np.asarray(list(mine.values())) - others
        return Change(float(differences.mean()), _error(differences), float(others.std()))
    values, others = np.asarray(list(mine.values())), np.asarray(list(theirs.values()))
    return Change(
        float(values.mean() - others.mean()),
        math.hypot(_error(values), _error(others)),
        float(others.std()),
    )


def _error(values_N: Float[np.ndarray, "N"]) -> float:
    """The standard error of the mean."""
    return (
        float(values_N.std(ddof=1) / math.sqrt(len(values_N))) if len(values_N) >= FEW else math.inf
    )


def _correlation(groups: Groups, of: Callable[[Valued], float]) -> tuple[float, int]:
    """(Pearson's correlation with overall, each prompt's means taken away first; the rewrites it is
    over)."""
    centred = []
    for group in groups.values():
        known = np.asarray([(of(row), row[1]) for row in group if np.isfinite(of(row))]).reshape(
            -1, 2
        )
        if len(known) > 1:  # one alone says nothing about within
            centred.append(known - known.mean(axis=0))
    if not centred:
        return math.nan, 0
    x, y = np.concatenate(centred).T
    size = math.sqrt(float(x @ x) * float(y @ y))
    return (float(x @ y) / size if size else math.nan), len(x)


def _saturated(rows: Sequence[Valued], seen: Sequence[Valued]) -> dict[str, float]:
    """Reward -> the share of `rows` within a hair of its highest score among `seen`. Floors are
    there to be met, and a
    held-out judge is not aimed at: neither is counted."""
    shares = {}
    once, all_once = (
        {c.key: c for c, _ in some}.values() for some in (rows, seen)
    )  # one may be in several pairs
    for name in sorted(
        {n for c in once for n in c.scores if n not in FLOOR_ONLY and not n.startswith(HELD_OUT)}
    ):
        mine, every = (
            np.asarray([c.scores.get(name, np.nan) for c in some]) for some in (once, all_once)
        )
        mine, every = mine[np.isfinite(mine)], every[np.isfinite(every)]
        if len(mine):
            shares[name] = float((mine >= every.max() - HAIR * np.ptp(every)).mean())
    return shares


def _mean(values) -> float:
    known = [v for v in values if np.isfinite(v)]
    return float(np.mean(known)) if known else math.nan
