"""Graded damage: what a reward that watches a video, or reads a caption, ought to notice.

Severity 0 leaves everything as it is and 4 is damage nobody overlooks. Most kinds are those of
ImageNet-C (Hendrycks and Dietterich 2019, arXiv 1903.12261, section 3) with its idea of five
grades; the temporal ones and the two textual ones are ours. Sizes are shares of the shorter side
and of the clip, so that one table serves 64 and 720 pixels.

Shapes: T frames, H W pixels.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int, UInt8
from scipy import ndimage

from pav_jax.records import stable_seed

SEVERITIES = 5  # 0..4
GREY = 127.5

Frames = Float[np.ndarray, "T H W 3"]


@dataclasses.dataclass(frozen=True)
class Degradation:
    """`strengths`: one for each severity from 1. `apply(video, strength, rng)` -> grey levels, cut
    to 0..255 later."""

    name: str
    family: str
    strengths: tuple[float, ...]
    apply: Callable[[Frames, float, np.random.Generator], Frames]


def degrade(
    video_TxHxWx3: UInt8[np.ndarray, "T H W 3"], kind: str, severity: int, seed: int = 0
) -> UInt8[np.ndarray, "T H W 3"]:
    """The damaged video. What is random in a kind is the same for all severities of one seed: only
    its size grows."""
    if severity == 0:
        return video_TxHxWx3
    chosen = VISUAL[kind]
    rng = np.random.default_rng(stable_seed("degrade", kind, seed))
    x = chosen.apply(video_TxHxWx3.astype(np.float32), chosen.strengths[severity - 1], rng)
    return np.clip(np.rint(x), 0, 255).astype(np.uint8)


def miscaption(prompt: str, other: str, kind: str, severity: int) -> str:
    """`prompt` with a growing share of words that belong to the prompt `other`."""
    if severity == 0:
        return prompt
    mine, theirs = prompt.split(), other.split()
    share = severity / (SEVERITIES - 1)
    if (
        kind == "wrong caption"
    ):  # from the left the other prompt's words, then the rest of one's own
        return " ".join(theirs[: _part(share, theirs)] + mine[_part(share, mine) :])
    return f"{prompt.rstrip(' .,')} and {' '.join(theirs[: _part(share, theirs)])}"


def _part(share: float, words: Sequence[str]) -> int:
    return int(np.ceil(share * len(words)))


# ---------------------------------------------------------------------------------- single pictures


def _blur(x: Frames, strength: float, rng) -> Frames:
    sigma = strength * min(x.shape[1:3])
    return ndimage.gaussian_filter(x, (0, sigma, sigma, 0), mode="nearest")


def _noise(x: Frames, strength: float, rng: np.random.Generator) -> Frames:
    return x + strength * rng.standard_normal(x.shape, np.float32)


def _darken(x: Frames, strength: float, rng) -> Frames:
    return x * strength


def _flatten(x: Frames, strength: float, rng) -> Frames:
    mean = x.mean((0, 1, 2))
    return mean + strength * (x - mean)


def _occlude(x: Frames, strength: float, rng) -> Frames:
    """A grey rectangle of the picture's shape in its middle; `strength` is its share of the
    area."""
    H, W = x.shape[1:3]
    high, wide = (max(1, round(side * strength**0.5)) for side in (H, W))
    top, left = (H - high) // 2, (W - wide) // 2
    x = x.copy()
    x[:, top : top + high, left : left + wide] = GREY
    return x


def _pixelate(x: Frames, strength: float, rng) -> Frames:
    """Square blocks of one colour each, as very strong compression leaves; those at the border may
    be smaller."""
    block = max(2, round(strength * min(x.shape[1:3])))
    for axis in (1, 2):
        starts = np.arange(0, x.shape[axis], block)
        sizes = np.diff(np.append(starts, x.shape[axis]))
        shape = [-1 if a == axis else 1 for a in range(4)]
        x = np.repeat(np.add.reduceat(x, starts, axis) / sizes.reshape(shape), sizes, axis)
    return x


# --------------------------------------------------------------------------------------------- time


def _flicker(x: Frames, strength: float, rng) -> Frames:
    """Every second frame is darker: never lighter, as light that is cut off would be a smaller
    step."""
    x = x.copy()
    x[1::2] *= 1 - strength
    return x


def frame_order(T: int, strength: float, rng: np.random.Generator) -> Int[np.ndarray, "T"]:
    """Frames put off by up to `strength` clip lengths each: a few neighbours trade places, at last
    nearly any two."""
    return np.argsort(np.arange(T) + strength * T * rng.random(T), kind="stable")


def _jump(x: Frames, strength: float, rng: np.random.Generator) -> Frames:
    return x[frame_order(len(x), strength, rng)]


def _drift(x: Frames, strength: float, rng) -> Frames:
    """Red fades in and blue fades out along the clip."""
    gains_Tx3 = 1 + np.linspace(0, 1, len(x))[:, None] * strength * np.array([1.0, 0.0, -1.0])
    return x * gains_Tx3[:, None, None].astype(np.float32)


def _freeze(x: Frames, strength: float, rng) -> Frames:
    """The last `strength` of the clip stands still."""
    return x[np.minimum(np.arange(len(x)), round((1 - strength) * (len(x) - 1)))]


def _slow(x: Frames, strength: float, rng) -> Frames:
    """Time runs at 1 - `strength`: frames repeat, and the end is never reached."""
    return x[np.floor(np.arange(len(x)) * (1 - strength) + 0.5).astype(int)]


# ---------------------------------------------------------------------------------------- the table


VISUAL = {
    d.name: d
    for d in (
        Degradation(
            "blur", "picture", (1 / 128, 1 / 64, 1 / 32, 1 / 16), _blur
        ),  # deviation, of the shorter side
        Degradation("noise", "picture", (10, 25, 50, 90), _noise),  # deviation in grey levels
        Degradation(
            "darkness", "picture", (0.7, 0.45, 0.25, 0.1), _darken
        ),  # what is left of the light
        Degradation(
            "low contrast", "picture", (0.7, 0.45, 0.25, 0.1), _flatten
        ),  # what is left of the contrast
        Degradation("occlusion", "content", (0.1, 0.25, 0.45, 0.7), _occlude),  # of the area
        Degradation(
            "pixelation", "content", (1 / 32, 1 / 16, 1 / 8, 1 / 4), _pixelate
        ),  # of the shorter side
        Degradation("flicker", "consistency", (0.1, 0.2, 0.35, 0.55), _flicker),  # of the light
        Degradation("jump", "consistency", (0.15, 0.3, 0.6, 2.0), _jump),  # of the clip
        Degradation(
            "colour drift", "consistency", (0.15, 0.3, 0.6, 1.0), _drift
        ),  # of red and blue
        Degradation("freeze", "motion", (0.25, 0.5, 0.75, 1.0), _freeze),  # of the clip
        Degradation("slow motion", "motion", (0.25, 0.5, 0.75, 0.9), _slow),  # of the speed
    )
}
TEXTUAL = ("wrong caption", "added caption")
FAMILIES = {kind: d.family for kind, d in VISUAL.items()} | dict.fromkeys(TEXTUAL, "text")
KINDS = tuple(FAMILIES)
RULE = (
    "within each family of damage, in the order of the table, the 1st, 3rd, ... kind fixes and the"
    " others verify"
)


def halves() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(kinds on which thresholds are fixed, kinds on which they are verified), by `RULE`."""
    fixed = [
        kind
        for family in dict.fromkeys(FAMILIES.values())
        for kind in [k for k in KINDS if FAMILIES[k] == family][::2]
    ]
    return tuple(k for k in KINDS if k in fixed), tuple(k for k in KINDS if k not in fixed)
