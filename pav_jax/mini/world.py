"""The mini world: what a scene is, how scenes are drawn at random, and which of them no model may
see.

A scene is one subject with a colour, size and material, doing one motion before one background,
filmed by a camera, with five captioned picture qualities (light, contrast, grain, focus,
steadiness). Qualities are mostly middling, as in real footage: whoever wants a good picture has to
ask for it.
"""

import dataclasses
import functools
import itertools
from collections.abc import Sequence

import numpy as np

SUBJECTS = ("ball", "box", "star", "heart", "ring", "triangle", "moon", "cross")
COLOURS = ("red", "blue", "green", "yellow", "purple", "orange", "white", "pink")
SIZES = ("small", "medium", "large")
MATERIALS = ("matte", "glossy", "striped")
MOTIONS = ("right", "left", "rise", "fall", "bounce", "grow", "shrink")
BACKGROUNDS = ("meadow", "sea", "desert", "night sky", "brick wall", "studio")
CAMERAS = ("still", "pan", "zoom")
QUALITIES = ("light", "contrast", "grain", "focus", "steadiness")  # each 0 poor, 1 middling, 2 good
ATTRIBUTES = ("subject", "colour", "size", "material", "motion", "background", "camera", *QUALITIES)
CLASSES = (
    *map(len, (SUBJECTS, COLOURS, SIZES, MATERIALS, MOTIONS, BACKGROUNDS, CAMERAS)),
    *(3 for _ in QUALITIES),
)  # how many values each attribute has

FRAMES, HEIGHT, WIDTH = 9, 64, 64
LEVELS = (0.2, 0.6, 0.2)  # how often footage is poor, middling, good in each quality
HELD_OUT_EVERY = 8  # one (subject, colour, motion) triple in eight is kept from every model


@dataclasses.dataclass(frozen=True)
class Scene:
    """Indices into the tuples above; `quality` holds five levels in 0..2; `seed` places and
    textures the scene."""

    subject: int
    colour: int
    size: int
    material: int
    motion: int
    background: int
    camera: int
    quality: tuple[int, int, int, int, int]
    seed: int

    @property
    def triple(self) -> tuple[int, int, int]:
        return self.subject, self.colour, self.motion


def attributes(scenes: Sequence[Scene]) -> np.ndarray:
    """int32 [B, 12]: every one of ATTRIBUTES of each scene."""
    return np.array(
        [
            (s.subject, s.colour, s.size, s.material, s.motion, s.background, s.camera, *s.quality)
            for s in scenes
        ],
        np.int32,
    )


@functools.cache
def triples() -> tuple[list[tuple[int, int, int]], list[tuple[int, int, int]]]:
    """(seen, held out) triples."""
    every = list(itertools.product(range(len(SUBJECTS)), range(len(COLOURS)), range(len(MOTIONS))))
    order = np.random.default_rng(20241215).permutation(len(every))
    held = {int(i) for i in order[: len(every) // HELD_OUT_EVERY]}
    return [t for i, t in enumerate(every) if i not in held], [
        t for i, t in enumerate(every) if i in held
    ]


def draw_scene(
    rng: np.random.Generator, held_out: bool = False, triple: tuple[int, int, int] | None = None
) -> Scene:
    """One random scene: of a seen triple, or of a held-out one, or of `triple`; qualities by
    LEVELS."""
    pool = triples()[1 if held_out else 0]
    subject, colour, motion = triple if triple is not None else pool[rng.integers(len(pool))]
    return Scene(
        subject=subject,
        colour=colour,
        size=int(rng.integers(len(SIZES))),
        material=int(rng.integers(len(MATERIALS))),
        motion=motion,
        background=int(rng.integers(len(BACKGROUNDS))),
        camera=int(rng.integers(len(CAMERAS))),
        quality=tuple(int(q) for q in rng.choice(3, size=len(QUALITIES), p=LEVELS)),
        seed=int(rng.integers(2**31)),
    )
