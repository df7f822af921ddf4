"""Video and caption corruptions of graded severity, to test what a reward is sensitive to.

Severity 0 is the original and 4 a corruption that nobody overlooks. Most types are those of
ImageNet-C (Hendrycks and Dietterich 2019, arXiv 1903.12261, section 3), as are the graded
severities; the temporal and caption types are our own. Sizes are fractions of the shorter side and
of the clip length, so that one table serves 64 and 720 pixels.

Shapes: T frames, H W pixels.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int, UInt8
from scipy import ndimage

from pav_jax.records import stable_seed

NUM_SEVERITIES = 5  # 0..4
GREY = 127.5

Frames = Float[np.ndarray, "T H W 3"]


@dataclasses.dataclass(frozen=True)
class Corruption:
    """One type of video corruption.

    Attributes:
      name: of the type.
      family: the aspect of the video that it corrupts.
      strengths: one per severity from 1; units as documented in `VIDEO_CORRUPTIONS`.
      apply: (frames in 0..255, strength, random generator) -> corrupted frames, not yet clipped.
    """

    name: str
    family: str
    strengths: tuple[float, ...]
    apply: Callable[[Frames, float, np.random.Generator], Frames]


def corrupt_video(
    video_TxHxWx3: UInt8[np.ndarray, "T H W 3"], kind: str, severity: int, seed: int = 0
) -> UInt8[np.ndarray, "T H W 3"]:
    """Applies a corruption of the type `kind`.

    Args:
      video_TxHxWx3: the original.
      kind: a key of `VIDEO_CORRUPTIONS`.
      severity: 0 (the original) to 4.
      seed: of the random types. All severities of one seed share their random numbers, so that only
        the strength changes.

    Returns:
      The corrupted video; the input itself at severity 0.
    """
    if severity == 0:
        return video_TxHxWx3
    corruption = VIDEO_CORRUPTIONS[kind]
    rng = np.random.default_rng(stable_seed("degrade", kind, seed))
    strength = corruption.strengths[severity - 1]
    frames = corruption.apply(video_TxHxWx3.astype(np.float32), strength, rng)
    return np.clip(np.rint(frames), 0, 255).astype(np.uint8)


def corrupt_caption(prompt: str, other: str, kind: str, severity: int) -> str:
    """Mixes a growing share of another prompt's words into `prompt`.

    Args:
      prompt: the true caption.
      other: the prompt of another video.
      kind: "wrong caption" replaces words from the left; "added caption" appends them.
      severity: 0 (`prompt` itself) to 4 (all words of `other`).
    """
    if severity == 0:
        return prompt
    words = prompt.split()
    other_words = other.split()
    share = severity / (NUM_SEVERITIES - 1)
    mixed_in = other_words[: _num_words(share, other_words)]
    if kind == "wrong caption":
        return " ".join(mixed_in + words[_num_words(share, words) :])
    return f"{prompt.rstrip(' .,')} and {' '.join(mixed_in)}"


def _num_words(share: float, words: Sequence[str]) -> int:
    return int(np.ceil(share * len(words)))


# --------------------------------------------------------------------------------- single frames


def _blur(frames: Frames, strength: float, rng: np.random.Generator) -> Frames:
    sigma = strength * min(frames.shape[1:3])
    return ndimage.gaussian_filter(frames, (0, sigma, sigma, 0), mode="nearest")


def _add_noise(frames: Frames, strength: float, rng: np.random.Generator) -> Frames:
    return frames + strength * rng.standard_normal(frames.shape, np.float32)


def _darken(frames: Frames, strength: float, rng: np.random.Generator) -> Frames:
    return frames * strength


def _reduce_contrast(frames: Frames, strength: float, rng: np.random.Generator) -> Frames:
    mean = frames.mean((0, 1, 2))
    return mean + strength * (frames - mean)


def _occlude(frames: Frames, strength: float, rng: np.random.Generator) -> Frames:
    """Covers a `strength` share of the area by a centred grey rectangle of the frame's shape."""
    H, W = frames.shape[1:3]
    height, width = (max(1, round(side * strength**0.5)) for side in (H, W))
    top = (H - height) // 2
    left = (W - width) // 2
    frames = frames.copy()
    frames[:, top : top + height, left : left + width] = GREY
    return frames


def _pixelate(frames: Frames, strength: float, rng: np.random.Generator) -> Frames:
    """Averages square blocks, as very strong compression does; border blocks may be smaller."""
    block = max(2, round(strength * min(frames.shape[1:3])))
    for axis in (1, 2):
        starts = np.arange(0, frames.shape[axis], block)
        ends = np.append(starts[1:], frames.shape[axis])
        sizes = (ends - starts).astype(int)
        shape = [-1 if a == axis else 1 for a in range(4)]
        means = np.add.reduceat(frames, starts, axis) / sizes.reshape(shape)
        frames = np.repeat(means, sizes, axis)
    return frames


# ------------------------------------------------------------------------------------------ time


def _flicker(frames: Frames, strength: float, rng: np.random.Generator) -> Frames:
    """Darkens every second frame. Brightening would be clipped and so be a smaller step."""
    frames = frames.copy()
    frames[1::2] *= 1 - strength
    return frames


def _frame_order(T: int, strength: float, rng: np.random.Generator) -> Int[np.ndarray, "T"]:
    """Frame indices after delaying each frame by up to `strength` clip lengths.

    Small strengths swap a few neighbours, large ones nearly any two frames.
    """
    return np.argsort(np.arange(T) + strength * T * rng.random(T), kind="stable")


def _reorder(frames: Frames, strength: float, rng: np.random.Generator) -> Frames:
    return frames[_frame_order(len(frames), strength, rng)]


def _drift_colours(frames: Frames, strength: float, rng: np.random.Generator) -> Frames:
    """Raises red and lowers blue linearly along the clip."""
    gains_Tx3 = 1 + np.linspace(0, 1, len(frames))[:, None] * strength * np.array([1.0, 0.0, -1.0])
    return frames * gains_Tx3[:, None, None].astype(np.float32)


def _freeze(frames: Frames, strength: float, rng: np.random.Generator) -> Frames:
    """Repeats one frame for the last `strength` of the clip."""
    last_moving = round((1 - strength) * (len(frames) - 1))
    return frames[np.minimum(np.arange(len(frames)), last_moving)]


def _slow_down(frames: Frames, strength: float, rng: np.random.Generator) -> Frames:
    """Plays at 1 - `strength` of the speed: frames repeat and the clip's end is not reached."""
    return frames[(np.arange(len(frames)) * (1 - strength) + 0.5).astype(int)]


# ------------------------------------------------------------------------------------- all types


VIDEO_CORRUPTIONS = {
    corruption.name: corruption
    for corruption in (
        # standard deviation of the Gaussian kernel, as a fraction of the shorter side
        Corruption("blur", "picture", (1 / 128, 1 / 64, 1 / 32, 1 / 16), _blur),
        # standard deviation in grey levels
        Corruption("noise", "picture", (10, 25, 50, 90), _add_noise),
        # remaining brightness
        Corruption("darkness", "picture", (0.7, 0.45, 0.25, 0.1), _darken),
        # remaining contrast
        Corruption("low contrast", "picture", (0.7, 0.45, 0.25, 0.1), _reduce_contrast),
        # covered share of the area
        Corruption("occlusion", "content", (0.1, 0.25, 0.45, 0.7), _occlude),
        # block size, as a fraction of the shorter side
        Corruption("pixelation", "content", (1 / 32, 1 / 16, 1 / 8, 1 / 4), _pixelate),
        # share of the brightness lost in every second frame
        Corruption("flicker", "consistency", (0.1, 0.2, 0.35, 0.55), _flicker),
        # largest delay of a frame, in clip lengths
        Corruption("jump", "consistency", (0.15, 0.3, 0.6, 2.0), _reorder),
        # change of red and blue by the last frame
        Corruption("colour drift", "consistency", (0.15, 0.3, 0.6, 1.0), _drift_colours),
        # frozen share of the clip
        Corruption("freeze", "motion", (0.25, 0.5, 0.75, 1.0), _freeze),
        # share of the speed lost
        Corruption("slow motion", "motion", (0.25, 0.5, 0.75, 0.9), _slow_down),
    )
}
CAPTION_CORRUPTIONS = ("wrong caption", "added caption")
FAMILIES = {name: c.family for name, c in VIDEO_CORRUPTIONS.items()} | dict.fromkeys(
    CAPTION_CORRUPTIONS, "text"
)
CORRUPTION_TYPES = tuple(FAMILIES)
SPLIT_RULE = (
    "within each family, in the order of the table, the 1st, 3rd, ... corruption type is for tuning"
    " and the others are for validation"
)


def split_types() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Corruption types (to tune thresholds on, to validate them on), split by `SPLIT_RULE`."""
    tuning = {
        kind
        for family in FAMILIES.values()
        for kind in [k for k in CORRUPTION_TYPES if FAMILIES[k] == family][::2]
    }
    return (
        tuple(kind for kind in CORRUPTION_TYPES if kind in tuning),
        tuple(kind for kind in CORRUPTION_TYPES if kind not in tuning),
    )
