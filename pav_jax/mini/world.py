"""The scenes of the mini world: their attributes, random sampling, and the held-out combinations.

A scene is one subject with a colour, a size and a material, in one motion before one background,
filmed by a camera, with five picture qualities (light, contrast, grain, focus, steadiness).
Qualities are mostly medium, as in real footage: good pictures have to be requested in the prompt.
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
QUALITIES = ("light", "contrast", "grain", "focus", "steadiness")  # each 0 poor, 1 medium, 2 good
ATTRIBUTES = ("subject", "colour", "size", "material", "motion", "background", "camera", *QUALITIES)
# How many values each attribute has.
CLASSES = (
    *map(len, (SUBJECTS, COLOURS, SIZES, MATERIALS, MOTIONS, BACKGROUNDS, CAMERAS)),
    *(3 for _ in QUALITIES),
)

FRAMES = 9
HEIGHT = 64
WIDTH = 64
LEVELS = (0.2, 0.6, 0.2)  # probabilities of poor, medium and good in each quality
HELD_OUT_EVERY = 8  # one (subject, colour, motion) triple in eight is held out from training

Quality = tuple[int, int, int, int, int]  # a level for each of QUALITIES


@dataclasses.dataclass(frozen=True)
class Scene:
    """One scene.

    Attributes:
      subject, colour, size, material, motion, background, camera: indices into the tuples above.
      quality: a level in 0..2 for each of QUALITIES.
      seed: of the background's position, the camera shake and the film grain.
    """

    subject: int
    colour: int
    size: int
    material: int
    motion: int
    background: int
    camera: int
    quality: Quality
    seed: int

    @property
    def triple(self) -> tuple[int, int, int]:
        """(subject, colour, motion): what a user's prompt always names."""
        return self.subject, self.colour, self.motion


def attributes(scenes: Sequence[Scene]) -> np.ndarray:
    """The ATTRIBUTES of each scene as class indices, int32 [B, 12]."""
    return np.array(
        [
            (s.subject, s.colour, s.size, s.material, s.motion, s.background, s.camera, *s.quality)
            for s in scenes
        ],
        np.int32,
    )


@functools.cache
def split_triples() -> tuple[list[tuple[int, int, int]], list[tuple[int, int, int]]]:
    """All (subject, colour, motion) triples: (those used in training, those held out)."""
    subjects, colours, motions = (range(len(names)) for names in (SUBJECTS, COLOURS, MOTIONS))
    triples = list(itertools.product(subjects, colours, motions))
    order = np.random.default_rng(20241215).permutation(len(triples))
    held_out_indices = {int(i) for i in order[: len(triples) // HELD_OUT_EVERY]}
    training = [triple for i, triple in enumerate(triples) if i not in held_out_indices]
    held_out = [triple for i, triple in enumerate(triples) if i in held_out_indices]
    return training, held_out


def to_quality(levels: Sequence[int] | np.ndarray) -> Quality:
    """Five levels as the field `quality` of a scene."""
    light, contrast, grain, focus, steadiness = (int(level) for level in levels)
    return light, contrast, grain, focus, steadiness


def draw_scene(
    rng: np.random.Generator, held_out: bool = False, triple: tuple[int, int, int] | None = None
) -> Scene:
    """Draws a random scene.

    Args:
      held_out: use a held-out triple instead of a training triple.
      triple: use this (subject, colour, motion).
    """
    if triple is None:
        training, held_out_triples = split_triples()
        pool = held_out_triples if held_out else training
        triple = pool[rng.integers(len(pool))]
    subject, colour, motion = triple
    return Scene(
        subject=subject,
        colour=colour,
        size=int(rng.integers(len(SIZES))),
        material=int(rng.integers(len(MATERIALS))),
        motion=motion,
        background=int(rng.integers(len(BACKGROUNDS))),
        camera=int(rng.integers(len(CAMERAS))),
        quality=to_quality(rng.choice(3, size=len(QUALITIES), p=LEVELS)),
        seed=int(rng.integers(2**31)),
    )
