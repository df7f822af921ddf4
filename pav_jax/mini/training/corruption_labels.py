"""The corruptions that the mini VideoScore and MPS are trained on, and the formulas of their
labels.

Each of VideoScore's five dimensions is 1 to 4. A clean video of a scene has the labels

    VQ = 1 + 3 * mean level of light, contrast, grain and focus
    TC = 1 + 3 * steadiness (0.55, 0.8, 1)
    DD = 1 + 3 * how much its motion and its camera move
    TVA = 1 + 3 * accuracy of the prompt: a wrong subject, colour or motion costs a third, a wrong
      background a sixth
    FC = 1 + 3 * 0.95

and a corruption of severity s removes the share LOST_SHARE * s / 4 of what exceeds 1. The kinds in
`HELD_OUT` are never used in training. The trained models are measured on them:
`python -m pav_jax.mini.training.reward_check`.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, UInt8

from pav_jax.mini import vocabulary as v
from pav_jax.mini import world as w
from pav_jax.mini.captions import user_prompt
from pav_jax.mini.world import Scene
from pav_jax.trust.corruptions import NUM_SEVERITIES, VIDEO_CORRUPTIONS, corrupt_video

# The share of each dimension that is lost at severity 4: VQ, TC, DD, TVA, FC.
LOST_SHARE = {
    "noise": (0.9, 0.0, 0.0, 0.1, 0.1),
    "blur": (0.9, 0.0, 0.0, 0.3, 0.1),
    "darkness": (0.9, 0.0, 0.0, 0.3, 0.1),
    "occlusion": (0.6, 0.0, 0.2, 0.7, 0.6),
    "flicker": (0.3, 0.9, 0.0, 0.0, 0.3),
    "jump": (0.0, 0.7, 0.0, 0.2, 0.9),
    "freeze": (0.0, 0.0, 1.0, 0.3, 0.0),
    "colour change": (0.0, 0.6, 0.0, 0.25, 0.6),
    "place change": (0.0, 0.6, 0.0, 0.0, 0.6),
    "double change": (0.0, 0.6, 0.0, 0.25, 0.8),
    "cut": (0.0, 0.6, 0.0, 0.3, 0.9),
    "tint": (0.2, 0.9, 0.0, 0.1, 0.3),
}
# "tint": every frame's channels are scaled by random factors within 1 +- this much.
TINTS = (0.1, 0.2, 0.35, 0.55)
# "change": from its middle on, the video fades to that of the same scene with another colour
# (background, subject), or with two of these changed. "cut": it fades to another scene. FADES is
# the share of the other video by severity.
CHANGES = {"colour change": "colour", "place change": "background", "shape change": "subject"}
DOUBLE_CHANGE = "double change"
FADES = (0.25, 0.5, 0.75, 1.0)
# dimension -> the unseen corruption types that it is measured on
HELD_OUT = {
    "VQ": ("low contrast", "pixelation"),
    "TC": ("colour drift",),
    "DD": ("slow motion",),
    "TVA": ("added caption",),
    "FC": ("shape change",),
}
STEADINESS = (0.55, 0.8, 1.0)
MOTION_DEGREES = {
    "right": 0.6,
    "left": 0.6,
    "rise": 0.6,
    "fall": 0.6,
    "bounce": 0.85,
    "grow": 0.45,
    "shrink": 0.45,
}
CAMERA_DEGREES = {"still": 0.0, "pan": 0.15, "zoom": 0.1}
PROMPT_SLOTS = ("subject", "colour", "motion")  # what every user prompt names
WRONG_PLACE_COST = 1 / 6


def corrupt(
    video_TxHxWx3: UInt8[np.ndarray, "T H W 3"],
    kind: str,
    severity: int,
    seed: int,
    other: UInt8[np.ndarray, "T H W 3"] | None = None,
) -> UInt8[np.ndarray, "T H W 3"]:
    """Applies a corruption.

    Args:
      kind: a key of LOST_SHARE or of `VIDEO_CORRUPTIONS`.
      severity: 0 (unchanged) to 4.
      other: the video that a change or a cut fades to.
    """
    if severity == 0 or kind in VIDEO_CORRUPTIONS:
        return corrupt_video(video_TxHxWx3, kind, severity, seed)
    num_frames = len(video_TxHxWx3)
    if kind == "tint":
        factors = np.random.default_rng(seed).uniform(-1, 1, (num_frames, 1, 1, 3))
        gains = 1 + TINTS[severity - 1] * factors
        return np.clip(np.rint(video_TxHxWx3 * gains.astype(np.float32)), 0, 255).astype(np.uint8)
    if other is None:
        raise ValueError(f"kind={kind!r} needs `other`, the video that it fades to")
    start = fade_start(num_frames)
    share = FADES[severity - 1]
    mixed = (1 - share) * video_TxHxWx3[start:].astype(np.float32) + share * other[start:]
    return np.concatenate([video_TxHxWx3[:start], np.rint(mixed).astype(np.uint8)])


def fade_start(num_frames: int) -> int:
    """The first frame of a change or a cut that is mixed with the other video."""
    return 1 + num_frames // 2


def change_scene(scene: Scene, kind: str, rng: np.random.Generator) -> Scene:
    """The scene with another colour, background or subject, or with two of these changed, and never
    with a held-out triple.

    Args:
      kind: a key of CHANGES, or DOUBLE_CHANGE.
    """
    if kind == DOUBLE_CHANGE:
        slots = rng.permutation(list(CHANGES.values()))[:2]
    else:
        slots = [CHANGES[kind]]
    for slot in slots:
        scene = _change_slot(scene, str(slot), rng)
    return scene


def _change_slot(scene: Scene, slot: str, rng: np.random.Generator) -> Scene:
    """Draws another value for one attribute until the triple is a training triple."""
    values = {
        "subject": w.SUBJECTS,
        "colour": w.COLOURS,
        "motion": w.MOTIONS,
        "background": w.BACKGROUNDS,
    }
    while True:
        value = int(rng.integers(len(values[slot])))
        changed = dataclasses.replace(scene, **{slot: value})
        if value != getattr(scene, slot) and changed.triple in training_triples():
            return changed


@functools.cache
def training_triples() -> frozenset[tuple[int, int, int]]:
    """The (subject, colour, motion) triples that are not held out."""
    return frozenset(w.split_triples()[0])


def draw_prompt(
    scene: Scene, wrong_slots: Sequence[str], rng: np.random.Generator
) -> tuple[str, Scene, dict[str, bool]]:
    """Draws a user prompt that is wrong about a scene in `wrong_slots`.

    Returns:
      The prompt, the scene that it describes, and which of PROMPT_SLOTS are right.
    """
    described = scene
    for slot in wrong_slots:
        described = _change_slot(described, slot, rng)
    is_right = {slot: getattr(described, slot) == getattr(scene, slot) for slot in PROMPT_SLOTS}
    return user_prompt(described, rng), described, is_right


def prompt_accuracy(prompt: str, scene: Scene, is_right: Mapping[str, bool]) -> float:
    """How much of a prompt is true of a scene, 0..1.

    Args:
      is_right: which of PROMPT_SLOTS are right; missing ones count as right.
    """
    background = w.BACKGROUNDS[scene.background]
    names_other_place = any(
        words in prompt
        for name, synonyms in v.BACKGROUNDS.items()
        if name != background
        for words in synonyms
    )
    num_wrong = sum(not right for right in is_right.values())
    place_cost = WRONG_PLACE_COST if names_other_place else 0.0
    return max(0.0, 1 - num_wrong / len(PROMPT_SLOTS) - place_cost)


def clean_labels(scene: Scene, accuracy: float) -> Float[np.ndarray, "5"]:
    """The labels of a clean video of the scene.

    Args:
      accuracy: of the prompt, 0..1.
    """
    level = dict(zip(w.QUALITIES, scene.quality, strict=True))
    picture = np.mean([level[q] for q in ("light", "contrast", "grain", "focus")]) / 2
    motion = MOTION_DEGREES[w.MOTIONS[scene.motion]] + CAMERA_DEGREES[w.CAMERAS[scene.camera]]
    steadiness = STEADINESS[level["steadiness"]]
    return 1 + 3 * np.array([picture, steadiness, min(1.0, motion), accuracy, 0.95])


def corrupted_labels(
    scene: Scene, accuracy: float, corruptions: Sequence[tuple[str, int]]
) -> Float[np.ndarray, "5"]:
    """The labels of a video after all corruptions, in the order of VideoScore's NAMES.

    Args:
      accuracy: of the prompt, 0..1.
      corruptions: (kind, severity) of each.
    """
    excess = clean_labels(scene, accuracy) - 1
    for kind, severity in corruptions:
        excess *= 1 - np.array(LOST_SHARE[kind]) * severity / (NUM_SEVERITIES - 1)
    return (1 + excess).astype(np.float32)
