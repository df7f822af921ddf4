"""The videos that the mini VideoScore, VideoReward and MPS are trained on: renders, their VAE
reconstructions, and generated videos.

They are made once, in a few minutes, and cached under `fit.WORK`. Picture qualities are drawn
uniformly, so that good and poor videos are as frequent as medium ones. Scenes have training triples
only.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import UInt8
from rich.progress import track

from pav_jax import defaults
from pav_jax.components import Components
from pav_jax.mini.captions import caption
from pav_jax.mini.render import render
from pav_jax.mini.training import fit
from pav_jax.mini.training.clip import make_reconstruct
from pav_jax.mini.training.corruption_labels import DOUBLE_CHANGE, change_scene
from pav_jax.mini.world import QUALITIES, Scene, draw_scene, to_quality

# Renders of VideoScore's training; the first NUM_RECONSTRUCTED are passed through the VAE.
NUM_RENDERS = 12288
NUM_RECONSTRUCTED = 1024
NUM_CHANGED = 2048  # per kind of change: plain renders that have a changed version
NUM_GENERATED = 768  # pairs of neighbours have one scene and one seed, and two sets of qualities
CHANGE_KINDS = ("colour change", "place change", DOUBLE_CHANGE)

Videos = UInt8[np.ndarray, "B T H W 3"]


def draw_scenes(num_scenes: int, seed: int, repeats: int = 1) -> list[Scene]:
    """Draws scenes with uniform picture qualities.

    Args:
      repeats: consecutive scenes that differ in their picture qualities only.
    """
    rng = np.random.default_rng(seed)
    drawn = [draw_scene(rng) for _ in range(num_scenes // repeats)]
    return [
        dataclasses.replace(scene, quality=to_quality(rng.integers(0, 3, len(QUALITIES))))
        for scene in drawn
        for _ in range(repeats)
    ]


def generated_scenes() -> list[Scene]:
    """The scenes of the generated videos. Every fourth asks for good pictures throughout, the one
    before it for poor ones."""
    scenes = draw_scenes(NUM_GENERATED, 83, repeats=2)
    for i, scene in enumerate(scenes):
        if i % 4 > 1:
            level = 2 * (i % 2)
            scenes[i] = dataclasses.replace(scene, quality=to_quality([level] * len(QUALITIES)))
    return scenes


def changed_scenes(scenes: list[Scene]) -> list[tuple[int, str, Scene]]:
    """(index of the render, kind of change, changed scene) of NUM_CHANGED renders per kind."""
    rng = np.random.default_rng(82)
    changed = []
    for number, kind in enumerate(CHANGE_KINDS):
        start = NUM_RECONSTRUCTED + number * NUM_CHANGED
        for index in range(start, start + NUM_CHANGED):
            changed.append((index, kind, change_scene(scenes[index], kind, rng)))
    return changed


def rendered_videos(
    num_videos: int = NUM_RENDERS, num_reconstructed: int = NUM_RECONSTRUCTED
) -> tuple[list[Scene], Videos]:
    """Scenes and their renders, the first `num_reconstructed` passed through the VAE."""
    scenes = draw_scenes(num_videos, 81)

    def make() -> Videos:
        videos = render(scenes)
        videos[:num_reconstructed] = make_reconstruct()(videos[:num_reconstructed])
        return videos

    return scenes, _cached(f"clips_rendered_{num_videos}_{num_reconstructed}", make)


def changed_videos() -> tuple[list[tuple[int, str, Scene]], Videos]:
    """`changed_scenes` of the renders, and their videos."""
    changed = changed_scenes(draw_scenes(NUM_RENDERS, 81))
    return changed, _cached("clips_turned", lambda: render([scene for _, _, scene in changed]))


def generated_videos(num_videos: int = NUM_GENERATED) -> tuple[list[Scene], Videos]:
    """The first of the `generated_scenes`, and the videos that the generator makes of their
    captions.

    Args:
      num_videos: a multiple of 16.
    """
    scenes = generated_scenes()[:num_videos]

    def make() -> Videos:
        config: Any = defaults.get_config()
        config.mesh.data = -1
        generator = Components(config).generator
        rng = np.random.default_rng(84)
        texts = [caption(scene, rng, canonical=1.0) for scene in scenes]
        batches = []
        for start in track(range(0, len(texts), 16), "generating videos"):
            seeds = [i // 2 for i in range(start, start + 16)]
            batches.append(generator.generate(texts[start : start + 16], seed=seeds))
        return np.concatenate(batches)

    return scenes, _cached(f"clips_generated_{num_videos}", make)


def _cached(name: str, make: Callable[[], Videos]) -> Videos:
    """The array in the work folder, which `make` makes if it is missing."""
    path = fit.WORK / f"{name}.npy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".part.npy")
        np.save(partial, make())
        partial.replace(path)
    return np.load(path, mmap_mode="r")


def main() -> None:
    """Makes all videos."""
    fit.use_all_cores()
    for make_videos in (rendered_videos, changed_videos, generated_videos):
        print(make_videos.__name__, make_videos()[1].shape, flush=True)


if __name__ == "__main__":
    main()
