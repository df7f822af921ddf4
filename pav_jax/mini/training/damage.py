"""What the mini judges are taught: graded damage, and declared formulas for the five dimensions of
VideoScore.

Each dimension is 1 to 4. A sound video of a scene has what the scene says:

    VQ = 1 + 3 * mean level of light, contrast, grain and focus      TC = 1 + 3 * steadiness (0.55,
    0.8, 1) DD = 1 + 3 * how much its motion and its camera move             FC = 1 + 3 * 0.95
    TVA = 1 + 3 * truth of the prompt: a wrong subject, colour or motion costs a third, a wrong
    place a sixth

and damage of severity s takes a share COST * s / 4 of what lies above 1. Some kinds are kept from
every training (`HELD_OUT`): on them the trained judges are measured,
`python -m pav_jax.mini.training.judges`.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8

from pav_jax.mini import vocabulary as v
from pav_jax.mini import world as w
from pav_jax.mini.captions import user_prompt
from pav_jax.mini.world import Scene
from pav_jax.trust.corruptions import NUM_SEVERITIES, VIDEO_CORRUPTIONS, corrupt_video

# At severity 4, the share of each dimension that is lost: VQ, TC, DD, TVA, FC
COST = {
    "noise": (0.9, 0.0, 0.0, 0.1, 0.1),
    "blur": (0.9, 0.0, 0.0, 0.3, 0.1),
    "darkness": (0.9, 0.0, 0.0, 0.3, 0.1),
    "occlusion": (0.6, 0.0, 0.2, 0.7, 0.6),
    "flicker": (0.3, 0.9, 0.0, 0.0, 0.3),
    "jump": (0.0, 0.7, 0.0, 0.2, 0.9),
    "freeze": (0.0, 0.0, 1.0, 0.3, 0.0),
    "colour turn": (0.0, 0.6, 0.0, 0.25, 0.6),
    "place turn": (0.0, 0.6, 0.0, 0.0, 0.6),
    "double turn": (0.0, 0.6, 0.0, 0.25, 0.8),
    "cut": (0.0, 0.6, 0.0, 0.3, 0.9),
    "tint": (0.2, 0.9, 0.0, 0.1, 0.3),
}
TINTS = (
    0.1,
    0.2,
    0.35,
    0.55,
)  # "tint": every frame's colours are off by up to so much, each frame's otherwise
# "turn": from the middle on the video fades to that of the same scene with another colour (place,
# subject), or with two of these others; "cut": to that of another scene. Severity is how far.
TURNS = {"colour turn": "colour", "place turn": "background", "shape turn": "subject"}
DOUBLE_TURN = "double turn"
FADES = (0.25, 0.5, 0.75, 1.0)
# dimension -> the kinds it is measured on, which no training sees
HELD_OUT = {
    "VQ": ("low contrast", "pixelation"),
    "TC": ("colour drift",),
    "DD": ("slow motion",),
    "TVA": ("added caption",),
    "FC": ("shape turn",),
}
STEADY = (0.55, 0.8, 1.0)
MOVES = {
    "right": 0.6,
    "left": 0.6,
    "rise": 0.6,
    "fall": 0.6,
    "bounce": 0.85,
    "grow": 0.45,
    "shrink": 0.45,
}
CAMERA_MOVES = {"still": 0.0, "pan": 0.15, "zoom": 0.1}
SAID = ("subject", "colour", "motion")  # by every user
PLACE_COST = 1 / 6


def damaged(
    video_TxHxWx3: UInt8[np.ndarray, "T H W 3"],
    kind: str,
    severity: int,
    seed: int,
    other: UInt8[np.ndarray, "T H W 3"] | None = None,
) -> UInt8[np.ndarray, "T H W 3"]:
    """`other`: what a turn or a cut fades to."""
    if severity == 0 or kind in VIDEO_CORRUPTIONS:
        return corrupt_video(video_TxHxWx3, kind, severity, seed)
    if kind == "tint":
        gains = 1 + TINTS[severity - 1] * np.random.default_rng(seed).uniform(
            -1, 1, (len(video_TxHxWx3), 1, 1, 3)
        )
        return np.clip(np.rint(video_TxHxWx3 * gains.astype(np.float32)), 0, 255).astype(np.uint8)
    start, share = fade_start(len(video_TxHxWx3)), FADES[severity - 1]
    mixed = (1 - share) * video_TxHxWx3[start:].astype(np.float32) + share * other[start:]
    return np.concatenate([video_TxHxWx3[:start], np.rint(mixed).astype(np.uint8)])


def fade_start(frames: int) -> int:
    """The first frame of a turn or a cut that is mixed with the other video's."""
    return 1 + frames // 2


def turned(scene: Scene, kind: str, rng: np.random.Generator) -> Scene:
    """The scene with another colour, place or subject, or two of them, of no held-out triple."""
    slots = rng.permutation(list(TURNS.values()))[:2] if kind == DOUBLE_TURN else [TURNS[kind]]
    for slot in slots:
        scene = _altered(scene, str(slot), rng)
    return scene


def _altered(scene: Scene, slot: str, rng: np.random.Generator) -> Scene:
    sizes = {
        "subject": w.SUBJECTS,
        "colour": w.COLOURS,
        "motion": w.MOTIONS,
        "background": w.BACKGROUNDS,
    }
    while True:
        value = int(rng.integers(len(sizes[slot])))
        changed = dataclasses.replace(scene, **{slot: value})
        if value != getattr(scene, slot) and changed.triple in _seen():
            return changed


@functools.cache
def _seen() -> frozenset[tuple[int, int, int]]:
    return frozenset(w.triples()[0])


def ask(
    scene: Scene, wrong: Sequence[str], rng: np.random.Generator
) -> tuple[str, Scene, dict[str, bool]]:
    """A user's prompt for a scene that differs from this one in the slots `wrong`, that scene, and
    which of SAID are right."""
    asked = scene
    for slot in wrong:
        asked = _altered(asked, slot, rng)
    return (
        user_prompt(asked, rng),
        asked,
        {slot: getattr(asked, slot) == getattr(scene, slot) for slot in SAID},
    )


def truth(prompt: str, scene: Scene, right: dict[str, bool]) -> float:
    """0..1: how much of the prompt is true of the scene."""
    place = w.BACKGROUNDS[scene.background]
    elsewhere = any(
        words in prompt
        for name, synonyms in v.BACKGROUNDS.items()
        if name != place
        for words in synonyms
    )
    return max(0.0, 1 - sum(not r for r in right.values()) / len(SAID) - PLACE_COST * elsewhere)


def sound(scene: Scene, true: float) -> Float[np.ndarray, "5"]:
    """The five dimensions of an undamaged video of the scene, for a prompt of which the share
    `true` is right."""
    level = dict(zip(w.QUALITIES, scene.quality, strict=True))
    picture = np.mean([level[q] for q in ("light", "contrast", "grain", "focus")]) / 2
    moves = min(1.0, MOVES[w.MOTIONS[scene.motion]] + CAMERA_MOVES[w.CAMERAS[scene.camera]])
    return 1 + 3 * np.array([picture, STEADY[level["steadiness"]], moves, true, 0.95])


def labels(scene: Scene, true: float, damages: Sequence[tuple[str, int]]) -> Float[np.ndarray, "5"]:
    """The five dimensions, in the order of VideoScore's NAMES, after all damages, each a (kind,
    severity)."""
    above = sound(scene, true) - 1
    for kind, severity in damages:
        above *= 1 - np.array(COST[kind]) * severity / (NUM_SEVERITIES - 1)
    return (1 + above).astype(np.float32)
